"""Asking a model what tasks want to know: answers from samplers, log-likelihoods of texts, verdicts of a judge."""
