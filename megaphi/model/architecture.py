"""The shape of a Phi-4 style transformer, and what follows from it by arithmetic.

Dense decoder, pre-norm RMSNorm, grouped-query attention, SwiGLU, rotary positions, no biases, untied embeddings (tied
on request) (technical report section 3; released configuration). `PHI4_14B` counts exactly 14,659,507,200 parameters.
No torch here: planners and the command line read this file without paying for an import.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from megaphi.config import Range, check_values, from_plain
from megaphi.errors import InputError, did_you_mean
from megaphi.model.variants import USUAL, variant_of
from megaphi.model.weights import matmul_parameters, parameter_count

OPERATORS = (
    *("rms_norm", "add_rms_norm", "rotary", "swiglu", "cross_entropy"),
    *("causal_softmax", "masked_softmax", "paged_attention"),
)
"""Names of the kernels of `model.kernels=fused`."""
HOW_IT_IS_COMPUTED = (
    *("initial_std", "kernels", "attention", "attention_backend", "loss_chunk_tokens", "allow_slow_operators"),
    "context",
)
"""Fields that decide how a model is initialised and computed, not what its weights mean."""


AttentionBackend = Literal["auto", "flash", "flash3", "cudnn", "efficient", "math"]


def check_operators(names: Iterable[str], *, field: str) -> None:
    """Refuse a name that no operator has."""
    for name in names:
        if name not in OPERATORS:
            known = f"{did_you_mean(name, OPERATORS)} There are {', '.join(OPERATORS)}"
            raise InputError(f"{field}{name}: there is no operator of this name.{known}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """Sizes of one model, and the code that computes it (config section `model`)."""

    layers: Annotated[int, Range(minimum=1, maximum=10_000)]
    """No file of a stranger makes us list the weights of more."""
    hidden: Annotated[int, Range(minimum=1)]
    feed_forward: Annotated[int, Range(minimum=1)]
    """Width of each half of the SwiGLU: the gate and the up projection."""
    heads: Annotated[int, Range(minimum=1, maximum=65_536)]
    key_value_groups: Annotated[int, Range(minimum=1, maximum=65_536)]
    """Key-value heads; each serves heads / key_value_groups query heads."""
    head_size: Annotated[int, Range(minimum=1)]
    vocabulary: Annotated[int, Range(minimum=1)]
    """Rows of the embedding, special and padding ids included; Phi-4's tokenizer is cut to the same number."""
    tied_embeddings: bool = False
    """The output layer's weight is the embedding: one weight, which both train (default: two, as Phi-4 has)."""
    variant: str = USUAL
    """Differences from Phi-4 beside sizes: a file of megaphi/model/variants (default: none)."""
    context: Annotated[int, Range(minimum=0)] = 0
    """Longest text that the model supports; 0: the initial checkpoint's or, if longer, the run's longest sequence."""
    norm_eps: Annotated[float, Range(above=0)] = 1e-5
    rotary_base: Annotated[float, Range(above=0)] = 10_000.0
    """10,000 in pretraining (default), 250,000 from mid-training on (paper)."""
    initial_std: Annotated[float, Range(above=0)] = 0.02
    """Standard deviation of the initial weights (default; the paper is silent)."""
    kernels: Literal["fused", "reference", "transformer_engine"] = "fused"
    """fused: our kernels (on a CPU PyTorch where one is missing); reference: PyTorch; transformer_engine: NVIDIA's."""
    allow_slow_operators: tuple[str, ...] = ()
    """Fused kernels that PyTorch may stand in for on a GPU where they are not compiled; the others are refused."""
    attention: Literal["sdpa", "softmax"] = "sdpa"
    """sdpa: torch's fused attention, without scores; softmax: by its definition, scores through our softmax."""
    attention_backend: AttentionBackend = "auto"
    """torch's kernel of model.attention=sdpa, by name: refused at the start where it cannot be; auto: torch's choice.

    math keeps all scores; flash3 needs its own package; Transformer Engine takes auto, flash, cudnn and math.
    """
    loss_chunk_tokens: Annotated[int, Range(minimum=0)] = 0
    """Tokens whose logits exist at a time; the output layer is then computed twice (fused only). 0: all tokens."""

    def check(self) -> None:
        """Refuse shapes that cannot be built, naming the field."""
        check_values(self, where="model")
        if self.heads % self.key_value_groups:
            raise InputError(
                f"model.heads={self.heads} is not a multiple of model.key_value_groups={self.key_value_groups}: "
                "every key-value group must serve the same number of query heads"
            )
        self._check_kernels()
        fraction = variant_of(self.variant).rotary_fraction
        if self.head_size * fraction % 2 or not 0 < fraction <= 1:
            part = "" if fraction == 1 else f", of which model.variant={self.variant} turns {fraction:g}"
            raise InputError(f"model.head_size={self.head_size}{part}: rotary positions need an even head size")

    def _check_kernels(self) -> None:
        if self.loss_chunk_tokens and self.kernels != "fused":
            raise InputError(
                f"model.loss_chunk_tokens={self.loss_chunk_tokens} needs model.kernels=fused, not {self.kernels}"
            )
        check_operators(self.allow_slow_operators, field="model.allow_slow_operators=")
        if self.allow_slow_operators and self.kernels != "fused":
            raise InputError(
                f"model.allow_slow_operators={','.join(self.allow_slow_operators)} needs model.kernels=fused, "
                f"not {self.kernels}"
            )
        if self.attention != "sdpa" and self.kernels == "transformer_engine":
            raise InputError("model.attention=softmax needs model.kernels=fused or reference")
        backend = self.attention_backend
        if backend != "auto" and self.attention != "sdpa":
            raise InputError(f"model.attention_backend={backend} needs model.attention=sdpa, not {self.attention}")
        if backend in ("flash3", "efficient") and self.kernels == "transformer_engine":
            raise InputError(
                f"model.attention_backend={backend} needs model.kernels=fused or reference: Transformer Engine takes"
                " auto, flash, cudnn or math"
            )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def key_value_width(self) -> int:
        return self.key_value_groups * self.head_size

    @property
    def turned_head_size(self) -> int:
        """Numbers of each head that rotary positions turn."""
        return int(self.head_size * variant_of(self.variant).rotary_fraction)

    @property
    def matmul_parameters(self) -> int:
        """All weights that take part in matrix products: the layers and the output projection."""
        return matmul_parameters(self)

    @property
    def parameters(self) -> int:
        """Every trainable number, by arithmetic; the tests compare it with the real modules."""
        return parameter_count(self)


def checked_architecture(sizes: Mapping[str, Any], *, where: str) -> Architecture:
    """The architecture of these fields, which a file gave. Raises InputError that names the file and the field."""
    try:
        model = from_plain(Architecture, dict(sizes), where="model")
        model.check()
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return model


def refuse_more_than_stored(model: Architecture, stored: int, *, where: str) -> None:
    """Refuse an architecture far larger than the numbers that a file holds, before its weights are listed one by one.

    Up to twice as many, the weights that are missing are named instead. Raises InputError.
    """
    if model.parameters > 2 * stored:
        raise InputError(
            f"{where}: a model of {model.parameters:,} parameters is described, and {stored:,} numbers are stored"
        )


PHI4_14B = Architecture(
    layers=40,
    hidden=5120,
    feed_forward=17_920,
    heads=40,
    key_value_groups=10,
    head_size=128,
    vocabulary=100_352,
)
