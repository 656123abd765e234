"""Verbs that plan a run, and try out what it rests on."""
