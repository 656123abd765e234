"""Files of other programs for pivotal tokens and resampled reasoning, read and written."""
