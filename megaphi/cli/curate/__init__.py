"""The verbs of curation."""
