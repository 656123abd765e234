"""The bytes of a dataset, wherever they are: open files, object storage, and the cache before it."""
