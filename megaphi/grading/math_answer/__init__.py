"""Grading of a number or formula: found in the text, and compared by two independent verifiers."""
