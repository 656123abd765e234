"""Duplicates among documents: the same text, nearly the same text, the same paragraphs."""
