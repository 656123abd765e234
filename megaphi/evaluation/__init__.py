"""Evaluation: how well a model does on benchmarks, with what its numbers can and cannot say.

`task.py` says what a task is, `tasks/` has them, `results.py` what was found. Phi-4's technical report, section 5.
"""
