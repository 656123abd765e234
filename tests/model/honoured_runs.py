"""The one process of the tests of honoured fields: every field, slot and argument, given another value.

Each function returns names: what was refused, and what was taken and made a difference.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as functional

from megaphi.model.architecture import Architecture
from megaphi.parallel.layout import ParallelLayout
from tests.engine.layout_runs import TINY
from tests.model.variant_runs import install_variants

ALONE = ParallelLayout(data=1)
LENGTH = 16


def finding(name: str) -> Any:
    """Result of the function `name` below."""
    from megaphi.parallel.world import start_world

    install_variants()
    start_world(ALONE, seed=0)
    return globals()[name]()


def config_of(kernels: str, **changes: Any) -> Any:
    from megaphi.model.megatron_config import transformer_config

    config = transformer_config(dataclasses.replace(TINY, kernels=kernels), ALONE, parameters="float32")  # pyright: ignore
    changed = copy.copy(config)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


def another(value: Any) -> Any:
    """A value of about the same kind that is not equal."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return ["another"] if isinstance(value, list) else "another"


def refusal(function: Callable[..., Any], *arguments: Any, **named: Any) -> str:
    """The message of the refusal, ours or Megatron's own; empty if there is none."""
    try:
        function(*arguments, **named)
    except ValueError as error:
        return str(error)
    return ""


def fields_taken() -> dict[str, list[str]]:
    """By kernels: fields of Megatron's configuration that may have any value; all others are refused by name.

    Also those that a variant may set, if this one does not.
    """
    from megaphi.model.honoured import BY_VARIANT, HONOURED, PHI4, refuse_other_fields

    taken: dict[str, list[str]] = {}
    for kernels in HONOURED:
        config = config_of(kernels)
        refuse_other_fields(config, kernels=kernels, variant=PHI4, spec=None)
        for field in dataclasses.fields(config):
            changed = config_of(kernels, **{field.name: another(getattr(config, field.name))})
            if field.name in HONOURED[kernels]:
                taken.setdefault(kernels, []).append(field.name)
            else:
                said = {field.name: getattr(changed, field.name)}
                as_phi4 = refusal(refuse_other_fields, changed, kernels=kernels, variant=PHI4, spec=None)
                by_variant = refusal(refuse_other_fields, changed, kernels=kernels, variant=said, spec=None)
                assert f" {field.name}=" in as_phi4
                assert bool(by_variant) is (field.name not in BY_VARIANT[kernels]), by_variant
        assert set(taken[kernels]) == set(HONOURED[kernels])
    return taken


CHANGES: dict[str, Any] = {
    "softmax_scale": 1.0,
    "layernorm_epsilon": 0.1,
    "activation_func": functional.gelu,
    "activation_func_clamp_value": 0.001,
    "glu_linear_offset": 1.0,
    "hidden_dropout": 0.5,
    "qk_layernorm": True,
    "rotary_interleaved": True,
    "add_qkv_bias": True,
    "gated_linear_unit": False,
}


def model_of(architecture: Architecture, config: Any, **arguments: Any) -> Any:
    from megaphi.model.fused_model import FusedModel
    from megaphi.model.initialize import initialize_weights
    from megaphi.model.layer_spec import block_spec
    from megaphi.model.padded_model import PaddedModel

    arguments.setdefault("transformer_layer_spec", block_spec(config, architecture))
    kind = FusedModel if architecture.kernels == "fused" else PaddedModel
    model = kind(architecture=architecture, config=config, max_sequence_length=LENGTH, **arguments)
    initialize_weights([model], seed=1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.add_(1.0) if name.endswith("bias") else weight.mul_(5.0)
    return model


def outcome(architecture: Architecture, config: Any) -> list[float]:
    from megaphi.model.forward.attention import Causal
    from megaphi.model.forward.context import ForwardContext
    from megaphi.model.forward.targets import Labels

    tokens = torch.arange(LENGTH)[None] % 8
    torch.manual_seed(0)
    model = model_of(architecture, config)
    with torch.no_grad():
        return model(tokens, ForwardContext(attention=Causal(), targets=Labels(tokens + 1)))[0].tolist()


def fields_that_matter() -> dict[str, list[str]]:
    """Fields that change a layer's function and make a difference. The others must be refused by the whole model.

    A size may have any value; what a variant may set is set by one.
    """
    from megaphi.model.honoured import BY_VARIANT
    from megaphi.model.megatron_config import variant_fields
    from megaphi.model.variants import variant_of

    found: dict[str, list[str]] = {}
    for kernels in ("fused", "reference"):
        plain = outcome(dataclasses.replace(TINY, kernels=kernels), config_of(kernels))
        trial = dataclasses.replace(TINY, kernels=kernels, variant="trial")  # pyright: ignore[reportArgumentType]
        for name, value in CHANGES.items():
            config = config_of(kernels, **{name: value})
            variant_of("trial").changes = {name: value}  # pyright: ignore[reportAttributeAccessIssue]
            variant_fields.cache_clear()
            message = refusal(outcome, trial, config)
            if message:
                assert f" {name}=" in message
                assert name not in BY_VARIANT[kernels]
            else:
                assert outcome(trial, config) != plain, f"{kernels} ignores {name}"
                found.setdefault(kernels, []).append(name)
    return found


def build_layer(config: Any, **slots: Any) -> Any:
    """A fused layer; `attention_*` are slots of its attention."""
    from megatron.core.transformer.spec_utils import build_module

    from megaphi.model.layer_spec import block_spec

    (spec, *_) = block_spec(config, dataclasses.replace(TINY, layers=1)).layer_specs or []
    spec: Any = copy.deepcopy(spec)
    for name, value in slots.items():
        if name.startswith("attention_"):
            setattr(spec.submodules.self_attention.submodules, name.removeprefix("attention_"), value)
        else:
            setattr(spec.submodules, name, value)
    return build_module(spec, config=config)


class _Foreign(torch.nn.Module):
    """Stands in a slot, and says that it was called."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, *_: Any, **__: Any) -> Any:
        raise LookupError("used")


def _slots(kind: type, prefix: str = "") -> list[str]:
    """Slots whose contents a fused layer calls; all others must be refused by name."""
    used = []
    for field in dataclasses.fields(kind):
        if field.name == "sharded_state_dict_keys_map":
            message = refusal(build_layer, config_of("fused"), **{field.name: {"a": "b"}})
            assert field.name in message
            continue
        slot = f"{prefix}{field.name}"
        message = refusal(build_layer, config_of("fused"), **{slot: _Foreign})
        if message:
            assert field.name in message or field.name == "self_attention", message
            continue
        layer = build_layer(config_of("fused"), **{slot: _Foreign})
        try:
            layer(torch.randn(4, 1, TINY.hidden), **_of_a_pass())
        except LookupError:
            used.append(field.name)
    return used


def _of_a_pass() -> dict[str, Any]:
    """Arguments of a fused layer for four tokens."""
    from megaphi.model.forward.attention import Causal

    return {"rotary_pos_emb": torch.ones(2, 4, TINY.head_size // 2), "attention_bias": Causal()}


def layer_slots() -> list[str]:
    from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules

    return _slots(TransformerLayerSubmodules)


def attention_slots() -> list[str]:
    from megatron.core.transformer.attention import SelfAttentionSubmodules

    return _slots(SelfAttentionSubmodules, "attention_")


def slot_of_a_later_version() -> str:
    """A slot that no version has yet is refused unless it is as its default says."""
    from megaphi.model.honoured import refuse_other_slots

    later = dataclasses.make_dataclass("Later", [("linear", Any), ("gate", Any, dataclasses.field(default=None))])
    assert refusal(refuse_other_slots, later(_Foreign), {"linear": None}, by="x") == ""
    return refusal(refuse_other_slots, later(_Foreign, _Foreign), {"linear": None}, by="the fused attention")


def model_arguments() -> list[str]:
    """Arguments of Megatron's model that the fused one refuses by name."""
    from megatron.core.models.gpt import GPTModel

    refused, config = [], config_of("fused")
    for name, parameter in inspect.signature(GPTModel.__init__).parameters.items():
        if parameter.default is inspect.Parameter.empty or name in ("rotary_base", "position_embedding_type"):
            continue
        message = refusal(model_of, TINY, config, **{name: another(parameter.default)}) if _is_plain(name) else ""
        if message:
            assert f" {name}=" in message
            refused.append(name)
    return refused


def _is_plain(name: str) -> bool:
    """Not what the model needs to be built at all."""
    return name not in ("pg_collection", "vp_stage", "pre_process", "post_process", "parallel_output") and (
        name != "share_embeddings_and_output_weights"
    )


def forward_arguments() -> list[str]:
    """Arguments of Megatron's layer that the fused one refuses by name."""
    from megatron.core.transformer.transformer_layer import TransformerLayer

    layer = build_layer(config_of("fused"))
    refused = []
    for name in inspect.signature(TransformerLayer._forward_attention).parameters:
        if name in ("self", "hidden_states", "attention_bias", "rotary_pos_emb", "context"):
            continue
        with pytest.raises(ValueError, match=f"does not take {name}:"):
            layer(torch.randn(4, 1, TINY.hidden), **_of_a_pass(), **{name: object()})
        refused.append(name)
    return refused


def attention_arguments() -> list[str]:
    from megatron.core.transformer.enums import AttnMaskType

    from megaphi.model.core_attention import ScaledDotProductAttention

    usual: dict[str, Any] = {"attn_mask_type": AttnMaskType.causal, "attention_type": "self"}
    changes: dict[str, Any] = {
        "attn_mask_type": AttnMaskType.no_mask,
        "attention_type": "cross",
        "attention_dropout": 0.1,
        "cp_comm_type": "a2a",
        "one_of_a_later_version": 3,
    }
    assert refusal(ScaledDotProductAttention, config_of("fused"), 1, **usual) == ""
    return [
        name
        for name, value in changes.items()
        if f"{name}=" in refusal(ScaledDotProductAttention, config_of("fused"), 1, **{**usual, name: value})
    ]


def norm_arguments() -> str:
    from megaphi.model.norm import RMSNorm

    assert refusal(RMSNorm, config_of("fused"), 8, has_residual=False) == ""
    return refusal(RMSNorm, config_of("fused"), 8, has_residual=True)


def architecture_fields() -> dict[str, list[str]]:
    """By kernels: fields of our own `model` section that change what is computed (or are refused, with a `!`)."""
    found: dict[str, list[str]] = {}
    for kernels in ("fused", "reference", "transformer_engine"):
        base: Any = dataclasses.replace(TINY, kernels=kernels)  # pyright: ignore[reportArgumentType]
        for field in dataclasses.fields(Architecture):
            if field.name == "kernels":
                continue
            value = getattr(base, field.name)
            changed = dataclasses.replace(base, **{field.name: _another_shape(field.name, value)})
            message = refusal(changed.check)
            if message:
                assert f"model.{field.name}=" in message
                found.setdefault(kernels, []).append(f"{field.name}!")
            elif kernels != "transformer_engine" and _computed(changed) != _computed(base):
                found.setdefault(kernels, []).append(field.name)
    return found


def _another_shape(name: str, value: Any) -> Any:
    if name == "attention":
        return "softmax"
    if name == "attention_backend":
        return "math"
    if name == "variant":
        return "qk_norm"
    if name == "allow_slow_operators":
        return ("swiglu",)
    if isinstance(value, bool):
        return not value
    return value + 1 if name == "key_value_groups" else value * 2 if value else value + 3


def _computed(architecture: Architecture) -> tuple[list[float], int]:
    """Losses, rounded: other ways to compute the same differ by less; and how many weights there are."""
    from megaphi.model.megatron_config import transformer_config

    config = transformer_config(architecture, ALONE, parameters="float32")
    return [round(loss, 3) for loss in outcome(architecture, config)], architecture.parameters
