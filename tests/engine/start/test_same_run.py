"""Ranks that would train apart are refused at the start: whatever decides the numbers is compared, by name.

One world of two runs what needs ranks (same_runs.py). That every fact reaches the comparison is shown by changing it;
how a difference is said, and that nobody waits, by tests/parallel/rendezvous/test_meeting.py and one real job below.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megaphi.checkpoint import versions as versions_module
from megaphi.config import leaves, to_plain
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.engine.start import run_folder, same_run
from megaphi.engine.start.same_run import PLACES, code_facts, run_facts
from megaphi.parallel.launcher import free_port
from megaphi.recipes import load_recipe
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.engine.start.same_runs import all_cases
from tests.gloo_world import run_in_world
from tests.test_house import ROOT
from tests.warm_megaphi import WarmMegaphi


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_in_world(all_cases, str(tmp_path_factory.mktemp("same")), processes=2)


def test_a_start_leaves_its_lock_and_nothing_else(ranks: list[dict[str, Any]]) -> None:
    """Nor what a job that was killed during its start has left; a file of somebody's own stays."""
    assert [rank["tree"] for rank in ranks] == [[".lock", "checkpoints", "logs"]] * 2
    assert [rank["checkpoints' tree"] for rank in ranks] == [[".rank_of_mine.txt"]] * 2


def test_a_run_folder_that_is_not_shared_is_refused_at_the_start(ranks: list[dict[str, Any]]) -> None:
    assert (
        "of_rank_1 is another folder than that of rank 0: all hosts must share it: rank 1 (" in ranks[0]["not shared"]
    )
    assert ranks[1]["not shared"].startswith("ReportedElsewhere")


def test_checkpoints_need_one_place_that_every_rank_can_write_to(ranks: list[dict[str, Any]]) -> None:
    assert [rank["fallback"] for rank in ranks] == [None, None]
    assert "checkpoints" in ranks[0]["checkpoints"]
    assert "ranks 0-1 (" in ranks[0]["checkpoints"] or "rank 0 (" in ranks[0]["checkpoints"]
    assert ranks[1]["checkpoints"].startswith("ReportedElsewhere")


def test_other_data_and_other_weights_are_refused_by_rank(ranks: list[dict[str, Any]]) -> None:
    assert [rank["same data"] for rank in ranks] == [None, None]
    assert [rank["same weights"] for rank in ranks] == [None, None]
    assert "held-out data, units: " in ranks[0]["other data"]
    assert "training data" not in ranks[0]["other data"]
    for case in ("other weights", "other norm", "other layer", "other type"):
        assert "starting weights: " in ranks[0][case], case
        assert "on rank 1 (" in ranks[0][case]


def test_every_field_is_compared_except_where_things_lie() -> None:
    run = load_recipe("quickstart_dpo")
    compared = run_facts(run)
    left_out = [path for path, _ in leaves(to_plain(run)) if path not in compared]
    assert left_out
    assert all(path.endswith(PLACES) for path in left_out)
    assert {"folder", "saving.fallback_folder", "start.initial_checkpoint"} <= set(left_out)
    assert {"seed", "saving.every", "layout.tensor", "optimizer.learning_rate", "task.beta"} <= compared.keys()
    elsewhere = dataclasses.replace(run, folder="/node7/run")
    assert run_facts(elsewhere) == compared


def test_an_edited_source_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = code_facts()
    assert len([field for field in before if field.startswith("source file megaphi/")]) > 100
    monkeypatch.setattr(versions_module, "PACKAGE", tmp_path)
    (tmp_path / "model.py").write_text("a = 1\n")
    one = versions_module.source_files()
    (tmp_path / "model.py").write_text("a = 2\n")
    assert one.keys() == versions_module.source_files().keys()
    assert one != versions_module.source_files()


def test_what_a_recipe_brings_along_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_losses.py").write_text("weight = 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_losses  # noqa: F401 # pyright: ignore[reportMissingImports]

    before = code_facts()
    (tmp_path / "my_losses.py").write_text("weight = 1.5\n")
    after = code_facts()
    del sys.modules["my_losses"]
    assert [name for name in before if before[name] != after[name]] == ["source file of module my_losses"]
    assert not {f"source file of module {name}" for name in ("pytest", "torch", "json", "megaphi")} & before.keys()


def test_variables_that_change_numbers_are_compared_and_others_not(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code_facts()
    for name in ("NCCL_ALGO", "NVTE_FLASH_ATTN", "OMP_NUM_THREADS", "NCCL_SOCKET_IFNAME", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "3")
    assert code_facts().keys() - before.keys() == {
        "environment variable NCCL_ALGO", "environment variable NVTE_FLASH_ATTN",
    }  # fmt: skip


def test_a_job_whose_ranks_differ_ends_on_all_of_them_in_seconds(tmp_path: Path) -> None:
    """Another layout on one rank hangs where process groups are made; another learning rate would never show.

    Rank 1 has another version of one source file, and of torch.
    """
    began = time.monotonic()
    said = said_by_two_ranks(
        tmp_path,
        (["layout.tensor=2"], ["optimizer.learning_rate=0.002", "saving.every=7"]),
        data=(tmp_path, tmp_path),
        preparation=(have_this_code, have_other_code),
    )
    assert time.monotonic() - began < 100
    for line in (
        "layout.tensor: 2 on rank 0 (",
        "optimizer.learning_rate: 0.001 on rank 0 (",
        "saving.every: 10 on ra",
        "version of torch: ",
        "source file megaphi/model/norm.py: ",
        "0000000000000000 on rank 1 (",
    ):
        assert line in said[0]
    assert "seed" not in said[0]
    assert said[0].count("source file megaphi/") == 1
    assert not (tmp_path / "run").exists()


def test_a_token_that_differs_on_one_host_is_found_before_the_first_step(tmp_path: Path) -> None:
    for rank in (0, 1):
        for name in ("web", "code"):
            write_tokens(tmp_path / f"host_{rank}" / name, changed=rank * (name == "code"))
    hosts = (tmp_path / "host_0", tmp_path / "host_1")
    assert len({(host / "code.bin").stat().st_size for host in hosts}) == 1
    said = said_by_two_ranks(tmp_path, ([], []), data=hosts, preparation=(have_this_code, have_this_code))
    assert "training data, source code, dataset 1: " in said[0]
    assert "source web" not in said[0]
    assert "Give all of them the same files" in said[0]
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def said_by_two_ranks(
    folder: Path,
    words: tuple[list[str], list[str]],
    *,
    data: tuple[Path, Path],
    preparation: tuple[Callable[[], None], Callable[[], None]],
) -> list[str]:
    """The errors of a job's ranks, which must all end by them and without a traceback."""
    recipe, port, jobs = f"{ROOT}/tests/stages/tiny_recipe.py:tiny", str(free_port()), []
    for rank in (0, 1):
        place = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TINY_DATA": str(data[rank]), "OMP_NUM_THREADS": "1"}
        arguments = ["train", recipe, f"folder={folder}/run", *words[rank]]
        jobs.append(WarmMegaphi(arguments, env={**os.environ, **place, **where}, preexec_fn=preparation[rank]))
    said = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [2, 2], said
    assert "Traceback" not in said[0] + said[1]
    return said


def have_this_code() -> None:
    """Nothing; but a rank that finds it has imported this file, as the other has."""


def have_other_code() -> None:
    """In a rank before it starts: one file of megaphi is edited, and torch is another version."""
    files, packages = same_run.source_files(), same_run.package_versions()
    same_run.source_files = lambda: files | {"model/norm.py": "0" * 64}
    same_run.package_versions = lambda: packages | {"torch": "2.0.0"}


def write_tokens(prefix: Path, *, changed: int) -> None:
    """3,000 tokens, of which the 1,500th is larger by `changed`."""
    prefix.parent.mkdir(exist_ok=True)
    with IndexedDatasetWriter(prefix, "uint16") as writer:
        for start in range(0, 3_000, 50):
            writer.add_document([(start + place) % 500 + changed * (start + place == 1_500) for place in range(50)])
        writer.finish({"tokenizer": load_tokenizer(512).fingerprint, "vocabulary_size": 512})


def test_a_file_that_another_host_is_slow_to_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "SECONDS_TO_APPEAR", 0.3)
    assert not run_folder._appears(tmp_path / "token")
    monkeypatch.setattr(run_folder.time, "sleep", lambda _: (tmp_path / "token").touch())
    assert run_folder._appears(tmp_path / "token")
