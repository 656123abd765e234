"""The formats of datasets; an open dataset of any of them is a `TokenDataset`."""
