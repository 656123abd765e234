"""The inference engine: scheduler, blocks of the cache, sampling, and the ranks that run it together."""
