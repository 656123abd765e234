"""Grading: whether an answer is right, by a key that is known before the answer is.

Questions with their keys (`question.py`), verdicts (`verdict.py`), and one way to grade a batch of answers.
"""
