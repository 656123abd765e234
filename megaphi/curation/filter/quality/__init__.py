"""Small classifiers of documents: trained from labels, calibrated, measured, applied; and the labels from a model."""
