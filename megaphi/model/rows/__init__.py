"""Rows of what the package knows of each weight, which variants list and everything else reads."""
