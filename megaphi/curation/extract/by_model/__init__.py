"""A model's decision which blocks of a page are its content."""
