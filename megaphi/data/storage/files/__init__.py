"""The files of a dataset: on disk, in object storage, and in the cache of object storage."""
