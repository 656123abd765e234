"""A run of curation: planned in shards and stages, done in any number of processes, resumed after any kill."""
