"""A checkpoint that Megatron-Core 0.19.2 wrote (`megatron_runs.save_counted`), read whatever version is installed here.

Since then the arguments of the run are an object among the tensors, and there is no common.pt. They are all 806 that
Megatron-LM of that version has, at their defaults but for the model's own: none of them is unknown.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from megaphi.conversion.formats.megatron.weights import MegatronWeights
from megaphi.conversion.open_weights import open_weights
from megaphi.conversion.to_checkpoint import to_checkpoint
from megaphi.errors import InputError
from megaphi.model.weights import weights_of
from tests.conversion.formats.megatron.megatron_runs import counted

FOLDER = Path(__file__).with_name("of_0_19")


def test_weights_and_arguments_are_those_that_were_saved(tmp_path: Path) -> None:
    assert not (FOLDER / "common.pt").exists()
    reader = MegatronWeights(FOLDER)
    assert (reader.state["megatron_iteration"], reader.config["batch"]["sequence_length"]) == (7, 64)
    model = reader.architecture
    assert (model.layers, model.hidden, model.heads, model.key_value_groups, model.head_size) == (1, 12, 6, 2, 2)
    assert (model.rotary_base, model.norm_eps) == (250_000, 1e-5)
    for weights in (reader, open_weights(to_checkpoint(FOLDER, tmp_path / "checkpoint"))):
        for weight in weights_of(model):
            found = weights.rows(weight.name, 0, weight.rows).numpy()
            np.testing.assert_array_equal(found, counted(weight.name, found.shape), err_msg=weight.name)


@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_arguments_that_are_damaged_are_one_message(damage: str, tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "model")
    data = (folder / "__0_0.distcp").read_bytes()
    place = data.rindex(b"argparse")
    end = b"" if damage == "cut" else b"\x80" * 8 + data[place + 8 :]
    (folder / "__0_0.distcp").write_bytes(data[:place] + end)
    with pytest.raises(InputError, match=r"__0_0\.distcp"):
        MegatronWeights(folder)
