"""Worked exercises that are made by rule, and whose answers are checked by a second method."""
