"""`megaphi parity`: right layouts pass, one that forgets a sum fails and its tensors are named, certificates hold."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from megaphi.cli import main
from megaphi.parallel.layout import ParallelLayout
from megaphi.planning.parity.comparison import Differences, beyond, exact_limit, limits_from
from megaphi.planning.parity.made_batches import data_digest, step_batches
from megaphi.planning.parity.twin import default_layouts, for_layout, shrunk, twin_of
from megaphi.recipes import RECIPES, load_recipe
from tests.test_house import ROOT
from tests.warm_megaphi import run_megaphi

OWN = f"{ROOT}/tests/planning/parity_recipes.py"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificate of the quickstart, on two ranks under every layout that fits them."""
    path = tmp_path_factory.mktemp("parity") / "certificate.json"
    done = run_megaphi("parity", "quickstart_pretrain", "--processes", 2, "--output", path)
    assert done.returncode == 0, done.stderr
    assert "# Parity of quickstart_pretrain: passed" in done.stdout
    return path


def test_every_layout_of_two_ranks_agrees_with_one_process(certificate: Path) -> None:
    plain = json.loads(certificate.read_text())
    fields = [
        (one["fields"]["tensor"], one["fields"]["pipeline"], one["fields"]["context"]) for one in plain["layouts"]
    ]
    assert {(2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 1, 1)} == set(fields)
    assert len(fields) == 6
    for entry in plain["layouts"]:
        assert len(entry["differences"]) == 2 * 4 + 2 * (3 + 6 * 4)  # loss, norm; embedding, norm, output, layers
        assert max(one["difference"] / one["limit"] for one in entry["differences"].values()) < 0.5
    assert plain["versions"]["torch"]
    assert plain["hosts"]


def test_a_certificate_covers_its_recipe_and_no_other(
    certificate: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check = ["--check", str(certificate)]
    assert main(["parity", "quickstart_pretrain", *check]) == 0
    assert main(["parity", "quickstart_pretrain", "optimizer.learning_rate=1e-4", "model.layers=8", *check]) == 0
    assert "covers quickstart_pretrain here" in capsys.readouterr().out
    for changed, message in (
        ("recompute=full", "the recipe's twin is another one"),
        ("precision.parameters=bfloat16", "it is of float32, the run of bfloat16"),
        ("layout.pipeline=2", "it did not try tensor 2 x pipeline 2"),
    ):
        assert main(["parity", "quickstart_pretrain", changed, *check]) == 1
        assert message in capsys.readouterr().out
    plain = json.loads(certificate.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(plain | {"versions": plain["versions"] | {"source": "0", "torch": "1.0"}}))
    assert main(["parity", "quickstart_pretrain", "--check", str(other)]) == 1
    assert "torch was 1.0, and is" in (out := capsys.readouterr().out)
    assert "source was 0, and is" in out
    other.write_text("{}")
    assert main(["parity", "quickstart_pretrain", "--check", str(other)]) == 2
    assert "is not a certificate" in capsys.readouterr().err


def test_a_layout_that_forgets_a_sum_fails_and_its_tensors_are_named(tmp_path: Path) -> None:
    words = ("--layout", "tensor=2,sequence_parallel=true", "--layout", "pipeline=2,stage_layers=4/2")
    path = tmp_path / "c.json"
    done = run_megaphi(
        "parity", f"{OWN}:forgetful", "--processes", 2, "--steps", 2, *words, "--output", path, timeout=120
    )
    assert done.returncode == 1, done.stderr
    tensor, pipeline = json.loads(path.read_text())["layouts"]
    assert (tensor["passed"], pipeline["passed"]) == (False, True)
    wrong = {one["item"] for one in tensor["beyond"] if one["item"].startswith("gradient of ")}
    right = {name for name in tensor["differences"] if name.startswith("gradient of ")} - wrong
    assert {"gradient of decoder.layers.0.self_attention.linear_qkv.weight"} <= wrong
    assert any("layernorm" in name for name in wrong)
    assert any("linear_fc1" in name for name in right) or "gradient norm of step 1" in str(tensor["beyond"])
    assert "FAILED" in done.stdout
    assert "gradient of decoder.layers." in done.stdout
    assert "Traceback" not in done.stderr


def test_bfloat16_errs_at_most_twice_as_much_as_one_process(tmp_path: Path) -> None:
    """Copied groups, padding, tied embeddings, isolated documents, recomputation, uneven stages."""
    words = (
        "--layout",
        "tensor=2,sequence_parallel=true",
        "--layout",
        "pipeline=2,stage_layers=4/2",
        "--layout",
        "data=2",
    )
    path = tmp_path / "c.json"
    done = run_megaphi("parity", f"{OWN}:many_features", "--processes", 2, "--steps", 2, *words, "--output", path)
    assert done.returncode == 0, done.stdout + done.stderr
    plain = json.loads(path.read_text())
    assert plain["twin"]["precision"]["parameters"] == "bfloat16"
    assert plain["twin"]["model"]["key_value_groups"] == 1
    assert plain["twin"]["model"]["vocabulary"] == 255


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_twin_whose_layouts_can_be_built(name: str) -> None:
    run = load_recipe(name)
    for world_size in (2, 4, 8):
        twin = twin_of(run, world_size=world_size, steps=4)
        for_layout(twin, ParallelLayout(), world_size=1)
        layouts, left_out = default_layouts(run, twin, world_size=world_size)
        assert layouts
        assert all(layout.world_size == world_size for layout in layouts)
        own = shrunk(run.layout)
        assert any(dataclasses.replace(layout, data=None) == own for layout in layouts) or str(own) in str(left_out)
        assert twin.model.parameters < 2_000_000
        assert (twin.recompute, twin.model.kernels, twin.model.variant) == (
            run.recompute, run.model.kernels, run.model.variant,
        )  # fmt: skip


def test_replicas_share_what_one_process_reads() -> None:
    twin = twin_of(load_recipe(f"{OWN}:many_features"), world_size=2, steps=1)
    alone = step_batches(twin, step=0, replica=0, replicas=1)
    shared = [step_batches(twin, step=0, replica=replica, replicas=2) for replica in (0, 1)]
    numbers = sorted(number for part in shared for batch in part for number in batch.sample_numbers_B)
    assert numbers == [number for batch in alone for number in batch.sample_numbers_B]
    assert alone[0].document_ids_BS is not None
    assert alone[0].positions_BS is not None
    assert len({int(batch.loss_mask_BS.sum()) for batch in alone}) > 1
    assert data_digest(twin) != data_digest(
        dataclasses.replace(twin, model=dataclasses.replace(twin.model, vocabulary=9))
    )


def test_limits_grow_with_the_arithmetic_and_catch_what_is_not_a_number() -> None:
    twin = twin_of(load_recipe("quickstart_pretrain"), world_size=2, steps=2)
    exact = exact_limit(twin)
    assert 1e-6 < exact < 1e-4
    found = Differences(
        losses=[0.0, 1.5 * exact],
        norms=[exact * 1.01, math.nan],
        gradients={"a": 0.5 * exact, "b": math.inf},
        weights={"a": (math.sqrt(2 * exact) * 0.9, 0), "b": (2.0, 1)},
    )
    names = [name for name, _, _ in beyond(found, twin, None)]
    assert set(names) == {"gradient norm of step 1", "gradient norm of step 2", "gradient of b", "weight b"}
    own = limits_from(dataclasses.replace(found, norms=[0.1, 0.1], gradients={"a": 0.0, "b": 1.0}))
    assert (own["gradient of b"], own["gradient of a"]) == (2.0 + 2.0**-9, 2.0**-9)
    assert (own["weight a"], own["weight b"]) == (2.0**-4, 4.0 + 2.0**-9)
    assert [name for name, _, _ in beyond(found, twin, own)][:1] == ["gradient norm of step 2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "parity compares at least two ranks"),
        (["--processes", "2", "--steps", "0"], "over at least one step"),
        (["--processes", "2", "--layout", "tensor=3"], "2 processes cannot hold whole copies of a model"),
        (["--processes", "2", "--layout", "tenser=2"], "tenser"),
        (["--check", "/nowhere.json"], "/nowhere.json"),
    ],
)
def test_bad_options_are_one_message(words: list[Any], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "quickstart_pretrain", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_dry_run_shows_the_twin_and_its_layouts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["parity", "phi4_14b_pretrain", "--processes", "4", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "model.hidden=128\n" in out
    assert "layout: tensor 1 x pipeline 2 x virtual pipeline 2 of 1/2/2/1 layers x data 2\n" in out
    assert "layout: tensor 1 x pipeline 4 of 2/2/1/1 layers x data 1\n" in out
    assert main(["parity", "phi4_14b_pretrain", "--processes", "8", "--dry-run"]) == 0
    assert "not tried: tensor 1 x pipeline 8 x data auto: layout.pipeline=8 does not" in capsys.readouterr().out
