"""Readers of documents: JSON lines, tables, archives of pages, files."""
