"""Inputs of a forward pass beside its tokens: context, variants of attention, kinds of output. Imports no Megatron."""
