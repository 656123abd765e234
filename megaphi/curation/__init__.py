"""Raw pages to training documents: extraction, rewriting, synthesis."""
