"""The formats a dataset may have, each a TokenDataset once it is open."""
