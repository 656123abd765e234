"""Writers of documents: each shard into its own files, which are then put together under numbers."""
