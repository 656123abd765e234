"""Verbs that evaluate models and compare what was found."""
