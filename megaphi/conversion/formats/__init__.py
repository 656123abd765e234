"""Formats of other projects' models: a folder for each, and the code that they share."""
