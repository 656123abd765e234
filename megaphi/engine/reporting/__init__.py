"""Reporting of a run: losses, speed and times, as lines, events and pictures."""
