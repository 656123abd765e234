"""Fitting a mixture: many small runs over sampled mixtures, a response through them, and the mixture it proposes."""
