"""Multiple choice: asked in words and graded by the announced letter, or by the log-likelihood of each option."""
