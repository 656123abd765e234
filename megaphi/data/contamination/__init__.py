"""Training data and benchmark files for the scan of `megaphi.decontamination`."""
