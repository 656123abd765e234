"""Reports of a run of curation, for people."""
