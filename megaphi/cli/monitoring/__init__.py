"""Verbs that look at runs: watch, report, profile, hang-report."""
