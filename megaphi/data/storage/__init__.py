"""Tokenised datasets in several formats, on local disks or in object storage: writing, reading, merging."""
