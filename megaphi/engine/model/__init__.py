"""The part of a run on a rank's device: the wrapped model, its optimizer, a fingerprint of its weights."""
