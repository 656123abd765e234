"""HTML pages: what the libraries decide, and what they lose kept."""
