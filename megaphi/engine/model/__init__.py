"""The part of a run that lives on a rank's device: the wrapped model, its optimizer, a fingerprint of its weights."""
