"""Build this rank's share of the model: one Megatron `GPTModel` per virtual pipeline stage.

`build_model` draws real weights. `count_parameters` builds the same modules for every pipeline stage of any layout on
the meta device, with process groups that never communicate, so that a laptop can check the 14B layout of 512 GPUs.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import torch
from megatron.core import parallel_state
from megatron.core.transformer import TransformerConfig

from megaphi.model.architecture import Architecture
from megaphi.model.fused_model import FusedModel
from megaphi.model.initialize import ParameterShare, check_weights, initialize_weights, parameter_shares
from megaphi.model.layer_spec import block_spec
from megaphi.model.megatron_config import Fp8, Precision, Recompute, transformer_config
from megaphi.model.padded_model import PaddedModel, TransformerEngineModel
from megaphi.model.tensor_gradients import mark_gradients
from megaphi.parallel.layout import Coordinates, ParallelLayout
from megaphi.parallel.world import pretended_world


def build_model(
    architecture: Architecture,
    layout: ParallelLayout,
    *,
    sequence_length: int,
    seed: int | None,
    parameters: Precision = "float32",
    recompute: Recompute = "none",
    fp8: Fp8 = "none",
) -> list[PaddedModel]:
    """This rank's chunks with weights drawn from (seed, parameter name), the same under every layout.

    Without a seed nothing is drawn: whoever builds the model loads every weight, and spares each rank drawing them all.
    """
    config = transformer_config(architecture, layout, parameters=parameters, recompute=recompute, fp8=fp8)
    chunks = _chunks(config, architecture, layout, sequence_length=sequence_length)
    if seed is not None:
        initialize_weights(chunks, seed=seed)
    return chunks


def _chunks(
    config: TransformerConfig, architecture: Architecture, layout: ParallelLayout, *, sequence_length: int
) -> list[PaddedModel]:
    kinds = {"fused": FusedModel, "transformer_engine": TransformerEngineModel}
    kind = kinds.get(architecture.kernels, PaddedModel)
    chunks: list[PaddedModel] = []
    for stage in range(layout.virtual_pipeline):
        virtual_stage = stage if layout.virtual_pipeline > 1 else None
        chunk = kind(
            architecture=architecture,
            config=config,
            transformer_layer_spec=block_spec(config, architecture, virtual_stage=virtual_stage),
            max_sequence_length=sequence_length,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=virtual_stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=virtual_stage),
            parallel_output=True,
            vp_stage=virtual_stage,
        )
        check_weights(chunk)
        mark_gradients(chunk)
        chunks.append(chunk)
    return chunks


class StageParameters(NamedTuple):
    """Trainable numbers of one pipeline stage."""

    local: int
    """Held by each tensor rank, the padding of the vocabulary included."""
    unique: int
    """Over all tensor ranks, replicated parameters counted once (in the first stage), padding not at all."""


def count_parameters(
    architecture: Architecture, layout: ParallelLayout, *, sequence_length: int
) -> list[StageParameters]:
    """Count the real modules of every pipeline stage, built as one of its ranks would."""
    stages = []
    for stage in range(layout.pipeline):
        place = Coordinates(tensor=0, context=0, data=0, pipeline=stage)
        shares = shares_without_storage(architecture, layout, place=place, sequence_length=sequence_length)
        local = sum(share.parameter.numel() for share in shares)
        stages.append(
            StageParameters(local, unique=sum(math.prod(share.whole_shape) for share in shares if share.is_first_copy))
        )
    return stages


def shares_without_storage(
    architecture: Architecture, layout: ParallelLayout, *, place: Coordinates, sequence_length: int
) -> list[ParameterShare]:
    """Parameters of the rank at `place` of one model copy, from its real modules on the meta device."""
    one_copy = dataclasses.replace(layout, data=1)
    with pretended_world(one_copy, rank=one_copy.rank_of(place)), torch.device("meta"):
        config = transformer_config(architecture, one_copy, parameters="bfloat16", on_default_device=True)
        chunks = _chunks(config, architecture, one_copy, sequence_length=sequence_length)
        return [share for chunk in chunks for share in parameter_shares(chunk)]
