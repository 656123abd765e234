"""Positions turn half of each head, as in Phi-4-mini; the other half tells no positions apart."""

from __future__ import annotations

from megaphi.model.variants.phi4 import PHI3, Phi4


class Variant(Phi4):
    rotary_fraction = 0.5
    huggingface = PHI3.with_fields(partial_rotary_factor=0.5)
