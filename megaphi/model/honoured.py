"""Fields of Megatron's configuration and layer specs that our own modules honour; everything else is refused by name.

Megatron passes one configuration with over two hundred fields to every module, and a module silently ignores the fields
that it does not know. So each of our ways to compute the model (`model.kernels`) lists the fields that it honours at
any value, and those that it honours as the model's variant sets them. Every other field must have the value that it has
for Phi-4, or Megatron's default; that includes fields that a later Megatron adds. A variant's own module names further
fields in its attribute `honours`. Slots of a spec and arguments of a constructor are treated alike.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from megatron.core.transformer import ModuleSpec, TransformerConfig

from megaphi.errors import InputError
from megaphi.model.variants.phi4 import phi4_fields

_SHAPE = {
    "num_layers",
    "hidden_size",
    "ffn_hidden_size",
    "num_attention_heads",
    "num_query_groups",
    "kv_channels",
    "layernorm_epsilon",
    "softmax_scale",
}
_INITIAL = {
    "init_method",
    "init_method_std",
    "output_layer_init_method",
    "embedding_init_method",
    "embedding_init_method_std",
    "perform_initialization",
    "use_cpu_initialization",
}
"""Unused in training: initialize.py draws the weights."""
_NUMBERS = {"params_dtype", "pipeline_dtype", "bf16", "calculate_per_token_loss"}
_LAYOUT = {
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "pipeline_model_parallel_layout",
    "virtual_pipeline_model_parallel_size",
    "context_parallel_size",
    "sequence_parallel",
}
_SCHEDULE = {
    "batch_p2p_comm",
    "batch_p2p_sync",
    "deallocate_pipeline_outputs",
    "overlap_p2p_comm",
    "finalize_model_grads_func",
    "grad_scale_func",
    "grad_sync_func",
    "microbatch_group_size_per_vp_stage",
    "no_sync_func",
    "param_sync_func",
    "timers",
    "variable_seq_lengths",
}
"""Fields that Megatron's schedules honour, whatever computes a layer."""
_RECOMPUTE = {"recompute_granularity", "recompute_method", "recompute_num_layers"}
_FUSIONS = {"apply_rope_fusion", "bias_activation_fusion", "bias_dropout_fusion", "gradient_accumulation_fusion"}
"""Other ways to compute the same in Megatron's layers; ours have their own."""
_FUSED = _SHAPE | _INITIAL | _NUMBERS | _LAYOUT | _SCHEDULE | _RECOMPUTE
HONOURED: Mapping[str, Collection[str]] = {
    "fused": _FUSED,
    "reference": _FUSED,
    "transformer_engine": _FUSED | _FUSIONS | {"fp8", "fp8_recipe", "attention_backend"},
}
"""By `model.kernels`: fields of a `TransformerConfig` that may have any value."""

_BY_VARIANT = {"activation_func", "add_qkv_bias", "gated_linear_unit", "qk_layernorm"}
BY_VARIANT: Mapping[str, Collection[str]] = {
    "fused": _BY_VARIANT,
    "reference": _BY_VARIANT
    | {"activation_func_clamp_value", "glu_linear_offset", "hidden_dropout", "rotary_interleaved"},
    "transformer_engine": (),
}
"""By `model.kernels`: fields that a variant may set. `reference` is Megatron's layer with our norm and attention."""

PHI4: Mapping[str, Any] = phi4_fields()
"""Phi-4's values of the fields that decide what a layer computes; all others have Megatron's defaults."""


def refuse_other_fields(config: TransformerConfig, *, kernels: str, variant: Mapping[str, Any], spec: Any) -> None:
    """Raise InputError if a field is not as `kernels` honours it, naming every such field with its value.

    Args:
        config: what the modules are given.
        kernels: `model.kernels`.
        variant: the values of fields that make the model what it is.
        spec: the modules that will compute it.
    """
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    computed = {*BY_VARIANT[kernels], *honoured_by(spec)}
    expected = {
        **_defaults(config),
        **PHI4,
        "use_te_activation_func": kernels == "fused",
        **{name: value for name, value in variant.items() if name in computed},
    }
    wrong = [
        f"{name}={_shown(value)} (must be {_shown(expected[name])})"
        for name, value in given.items()
        if name not in HONOURED[kernels] and not _is_same(value, expected[name])
    ]
    if wrong:
        raise InputError(f"model.kernels={kernels} does not honour {', '.join(wrong)} of Megatron's configuration")


def honoured_by(spec: Any) -> set[str]:
    """Fields that a module of a layer spec says it honours (`honours = ("window_size",)` in its class)."""
    if isinstance(spec, ModuleSpec):
        return honoured_by(spec.module) | honoured_by(spec.submodules)
    if isinstance(spec, type):
        return set(getattr(spec, "honours", ()))
    if dataclasses.is_dataclass(spec):
        return set().union(*(honoured_by(getattr(spec, field.name)) for field in dataclasses.fields(spec)))
    return set()


def _defaults(config: TransformerConfig) -> dict[str, Any]:
    """Megatron's value of every field for this model, given nothing but its shape."""
    shape = {name: getattr(config, name) for name in _SHAPE | _NUMBERS | _LAYOUT | _SCHEDULE | _RECOMPUTE}
    plain = TransformerConfig(**shape)
    own = {field.name: _default(field) for field in dataclasses.fields(config)}
    return {name: getattr(plain, name, default) for name, default in own.items()}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def refuse_other_slots(submodules: Any, honoured: Mapping[str, Collection[Any] | None], *, by: str) -> None:
    """Raise InputError if a slot of a layer spec holds something that would not be used.

    Args:
        submodules: one of Megatron's dataclasses of slots.
        honoured: slot -> what may be in it; None: anything. Other slots must be as Megatron leaves them.
        by: the class that would ignore the rest, for the message.
    """
    wrong = []
    for field in dataclasses.fields(submodules):
        allowed = honoured.get(field.name, (_default(field),))
        value = getattr(submodules, field.name)
        if allowed is not None and value not in allowed:
            wrong.append(f"{field.name}={_shown(value)}")
    if wrong:
        raise InputError(f"{by} does not use what is in {', '.join(wrong)} of its spec")


def refuse_other_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], honoured: Collection[str], *, by: str
) -> None:
    """Raise InputError if an argument that is not honoured is given another value than `function`'s default."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}
    wrong = [
        f"{name}={_shown(value)}"
        for name, value in arguments.items()
        if name not in honoured and not _is_same(value, defaults.get(name))
    ]
    if wrong:
        raise InputError(f"{by} does not honour {', '.join(wrong)}")


def _is_same(value: Any, expected: Any) -> bool:
    return value is expected or bool(value == expected)


def _shown(value: Any) -> str:
    return getattr(value, "__name__", None) or repr(value)
