"""First contact with a machine: how many ranks it takes, which layout fits, and that the CPU can be forced.

GPUs are pretended: torch and the driver's device file say what a test wants them to say.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from megaphi.errors import InputError
from megaphi.parallel import devices, launcher
from megaphi.parallel.devices import as_fields, check_processes, fitting, gpu_identity, gpus
from megaphi.parallel.layout import ParallelLayout
from megaphi.parallel.rendezvous.place import ALONE
from megaphi.recipes.quickstart import quickstart_dpo, quickstart_pretrain, quickstart_sft
from tests.conftest import asks_for_gpu
from tests.gloo_world import run_in_world
from tests.test_house import ROOT


@pytest.fixture
def pretend(monkeypatch, tmp_path):
    """A machine whose driver is there, and where torch sees so many GPUs."""

    def set_number(number: int) -> None:
        monkeypatch.setattr(devices, "_DRIVERS", (tmp_path,))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return set_number


def test_without_a_driver_torch_is_not_even_imported():
    program = "import sys; from megaphi.parallel.devices import gpus; print(gpus(), 'torch' in sys.modules)"
    program = program.replace("print(", "import megaphi.parallel.devices as d; d._DRIVERS = (); print(", 1)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.split() == ["0", "False"]


def test_a_gpu_is_known_by_its_own_number(pretend, monkeypatch):
    """Not by its place: with CUDA_VISIBLE_DEVICES it is number 0 in many processes."""
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"GPU-{index}"))
    rank = dataclasses.replace(ALONE, rank=5, world_size=8, local_rank=1, local_world_size=4)
    for number, expected in ((0, ""), (1, "GPU-0"), (4, "GPU-1")):
        pretend(number)
        assert gpu_identity(rank) == expected
    assert gpu_identity(dataclasses.replace(rank, local_rank=None)) == ""
    pretend(2)
    with pytest.raises(InputError, match="rank 5 has local rank 3 but sees 2 GPUs"):
        gpu_identity(dataclasses.replace(rank, local_rank=3))


def test_what_torch_sees_counts(pretend):
    for number in (0, 1, 8):
        pretend(number)
        assert gpus() == number


def test_more_ranks_than_gpus_are_refused_before_one_starts(pretend, tmp_path):
    pretend(1)
    command = [sys.executable, "-c", f"open({str(tmp_path / 'started')!r}, 'w')"]
    with pytest.raises(InputError, match=r"2 processes, but this machine has 1 GPU: .*CUDA_VISIBLE_DEVICES= megaphi"):
        launcher.start_processes(command, processes=2)
    assert not (tmp_path / "started").exists()
    for number, processes in ((0, 64), (1, 1), (8, 8)):
        pretend(number)
        check_processes(processes)


@pytest.mark.parametrize(
    ("layout", "gpus", "expected"),
    [
        (ParallelLayout(tensor=2, sequence_parallel=True), 0, ParallelLayout(tensor=2, sequence_parallel=True)),
        (ParallelLayout(tensor=2), 2, ParallelLayout(tensor=2)),
        (ParallelLayout(tensor=2, sequence_parallel=True), 1, ParallelLayout(sequence_parallel=True, data=1)),
        (ParallelLayout(pipeline=2, virtual_pipeline=2), 1, ParallelLayout(data=1)),
        (ParallelLayout(pipeline=2, stage_layers=(3, 1)), 1, ParallelLayout(data=1)),
        (
            ParallelLayout(pipeline=2, stage_layers=(3, 1), data=2),
            2,
            ParallelLayout(pipeline=2, stage_layers=(3, 1), data=1),
        ),
        (ParallelLayout(data=2), 1, ParallelLayout(data=1)),
        (ParallelLayout(tensor=2, pipeline=2, data=2), 4, ParallelLayout(tensor=2, pipeline=2, data=1)),
        (ParallelLayout(tensor=4, pipeline=2), 3, ParallelLayout(pipeline=2, data=1)),
        (ParallelLayout(), 1, ParallelLayout()),
    ],
    ids=str,
)
def test_a_layout_is_cut_down_to_the_gpus(layout, gpus, expected):
    assert fitting(layout, gpus=gpus) == expected


def quickstart_dpo_on_two_replicas():
    """As the story starts it; the recipe leaves the number of replicas open."""
    run = quickstart_dpo()
    return dataclasses.replace(run, layout=dataclasses.replace(run.layout, data=2))


@pytest.mark.parametrize("recipe", [quickstart_pretrain, quickstart_sft, quickstart_dpo_on_two_replicas])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_examples_start_what_the_machine_can_run(recipe, number, pretend):
    """No GPU: two ranks on the CPU; one: one rank, and the fields that say so; two: one rank each."""
    from megaphi.config import override
    from megaphi.engine.run_config import check

    pretend(number)
    example = load_example("quickstart")
    run = recipe()
    words = example.start_words(example.on_this_machine(run), run)
    processes, fields = int(words[3]), words[4:]
    assert words[:3] == ["train", run.recipe, "--processes"]
    assert processes == (1 if number == 1 else 2)
    changed = override(run, fields)
    assert dataclasses.replace(changed, layout=run.layout) == run
    check(changed, world_size=processes)
    assert bool(fields) == (number == 1)


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_fields_of_a_layout_are_words_that_the_command_line_takes():
    layout = ParallelLayout(tensor=2, sequence_parallel=True)
    assert as_fields(ParallelLayout(data=1), instead_of=layout) == [
        *("layout.tensor=1", "layout.data=1", "layout.sequence_parallel=false")
    ]


@pytest.mark.parametrize(
    ("marks", "asked"),
    [
        ("", False),
        ("gpu", True),
        ("gpu and not slow", True),
        ("not gpu", False),
        ("slow", False),
        ("slow or gpu", True),
    ],
)
def test_the_suite_runs_on_the_cpu_unless_gpu_tests_are_asked_for(marks, asked):
    assert asks_for_gpu(marks) is asked
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == "" or torch.cuda.is_available()


def seen_by_a_rank() -> tuple[str | None, bool]:
    return os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.is_available()


def test_the_ranks_of_tests_see_no_gpu():
    assert run_in_world(seen_by_a_rank, processes=1) == [("", False)]


@pytest.mark.parametrize("own", [None, *devices.ALLOCATOR_VARIABLES])
def test_memory_of_a_gpu_grows_unless_the_user_has_settings_of_their_own(own, monkeypatch):
    """The setting is one that this torch knows: its own function takes it. Not yet run on a GPU."""
    for name in devices.ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if own is not None:
        monkeypatch.setenv(own, "max_split_size_mb:64")
    before, said, usual = torch._C._accelerator_getAllocatorSettings(), [], torch._C._accelerator_setAllocatorSettings
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", lambda text: usual(text) or said.append(text))
    devices.let_memory_grow()
    assert said == ([] if own else ["expandable_segments:True"])
    usual(before)
