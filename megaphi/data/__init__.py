"""Text to batches: tokenised files, their order and mixture, and the loader; every batch is a pure function."""
