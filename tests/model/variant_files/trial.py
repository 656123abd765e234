"""A variant that is whatever a test makes of it: any fields of Megatron's, with the weights that go with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from megaphi.model.architecture import Architecture
from megaphi.model.rows.weight_row import Weight
from megaphi.model.variants.phi4 import Phi4


class Variant(Phi4):
    changes: dict[str, Any] = {}  # noqa: RUF012 (a test sets it)

    def megatron_fields(self, model: Architecture) -> dict[str, Any]:
        return {**super().megatron_fields(model), **self.changes}

    def layer_weights(self, model: Architecture) -> list[Weight]:
        rows = super().layer_weights(model)
        if self.changes.get("gated_linear_unit") is False:
            gateless = (model.feed_forward, model.hidden)
            rows = [replace(row, shape=gateless, cut=0) if "linear_fc1" in row.name else row for row in rows]
        if self.changes.get("add_qkv_bias"):
            (matrix,) = (row for row in rows if "linear_qkv" in row.name)
            rows.append(replace(matrix, name="self_attention.linear_qkv.bias", shape=matrix.shape[:1], drawn="zeros"))
        if self.changes.get("qk_layernorm"):
            names = (f"self_attention.{part}_layernorm.weight" for part in "qk")
            rows += [Weight(name=name, shape=(model.head_size,), drawn="ones") for name in names]
        return rows
