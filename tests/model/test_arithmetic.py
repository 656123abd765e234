"""FLOPs and parameters by arithmetic, against the published numbers and torch's own counter."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Phi3Config, Phi3ForCausalLM

from megaphi.model.architecture import PHI4_14B
from megaphi.model.arithmetic import explain_utilisation, flops_per_token, head_in_layers
from tests.engine.layout_runs import TINY


def test_phi4_by_arithmetic():
    assert PHI4_14B.parameters == 14_659_507_200
    assert flops_per_token(PHI4_14B, sequence_length=4_096, attention="full") == pytest.approx(94.9e9, rel=1e-3)
    assert flops_per_token(PHI4_14B, sequence_length=4_096) == pytest.approx(89.9e9, rel=1e-3)
    assert head_in_layers(PHI4_14B, sequence_length=4_096) == pytest.approx(1.42, abs=5e-3)


def huggingface_twin(architecture):
    config = Phi3Config(
        vocab_size=architecture.vocabulary,
        hidden_size=architecture.hidden,
        intermediate_size=architecture.feed_forward,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        num_key_value_heads=architecture.key_value_groups,
        pad_token_id=0,
        attn_implementation="eager",  # pyright: ignore[reportCallIssue]
    )
    return Phi3ForCausalLM(config)


def test_parameters_are_those_of_transformers():
    model = huggingface_twin(TINY)
    assert sum(parameter.numel() for parameter in model.parameters()) == TINY.parameters


def test_flops_are_what_torch_counts():
    """The counter sees every matrix product of an eager forward and backward pass, attention in full."""
    model = huggingface_twin(TINY)
    tokens = torch.randint(TINY.vocabulary, (2, 64))
    counter = FlopCounterMode(display=False)
    with counter:
        model(tokens, labels=tokens).loss.backward()
    rotary = 2 * 64 * (TINY.head_size // 2) * 2  # transformers computes the angles by a matrix product, forward only
    expected = flops_per_token(TINY, sequence_length=64, attention="full") * tokens.numel()
    assert counter.get_total_flops() == pytest.approx(expected, abs=rotary)


def test_width_need_not_be_heads_times_size():
    wide = dataclasses.replace(TINY, head_size=16)
    assert wide.query_width == 2 * wide.hidden
    assert wide.parameters - TINY.parameters == wide.layers * wide.hidden * 2 * (48 + 16)


def test_utilisation_names_its_formula():
    assert "989.4 TFLOP/s dense bf16" in explain_utilisation("NVIDIA H100 80GB HBM3")
    assert "12 x layers" in explain_utilisation("NVIDIA H200", attention="full")
    assert "no MFU: the peak of 'CPU' is not known" in explain_utilisation("CPU")
