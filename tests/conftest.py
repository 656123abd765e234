"""Tests run on the CPU of any machine; those marked `gpu` are for `pytest -m gpu` (make test-gpu), which sees the GPU.

Tests marked `gpu` or `dali` are left out, not skipped one by one, where there is no CUDA device or no DALI.

Hypothesis does not time its examples: the first one may pay for an import, and machines may be busy.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Hide every GPU from this process and from all that it starts, before torch could ask for one."""
    if not asks_for_gpu(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    # As in a terminal: a job in the background is started with interrupts ignored, one of nohup with hang-ups.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def asks_for_gpu(marks: str) -> bool:
    """Return whether the expression of `-m` selects the mark `gpu`."""
    return re.search(r"(?<!not )\bgpu\b", marks) is not None


STARTS_PROCESSES = (
    "run_in_world",
    "run_in_new_world",
    "start_ranks",
    "WarmMegaphi",
    "run_megaphi",
    "gguf_file",
    "subprocess",
)
"""A test file that has one of these starts processes, or loads a real model: `make test-fast` leaves it out."""


LONGEST = """
    test_smollm2 test_golden_curve test_reshard_matrix test_killed_runs test_inference_engine test_cuda_build
    test_paged_attention test_mixture_changes test_variants test_prefer test_packed_training test_weights
    test_training_runs test_finetune test_large_vocabulary test_padded_vocabulary test_plain_torch test_tied_embeddings
    test_buckets test_inspect_and_doctor test_attacks
""".split()
"""Files that take more than fifteen seconds of a processor, in the order of what they take."""


class OneWorkerForSmolLM2(LoadFileScheduling):
    """A worker takes whole files; one takes all that read SmolLM2, which costs as much as using it."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "smollm2" if file.endswith("test_smollm2.py") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    return OneWorkerForSmolLM2(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if any(hasattr(getattr(item, "module", None), name) for name in STARTS_PROCESSES):
            item.add_marker("slow")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    places = {name: place for place, name in enumerate(LONGEST)}
    # The longest files first: two workers end at about one time.
    items.sort(key=lambda item: (places.get(item.path.stem, len(places)), item.path not in slow))
    for mark, is_possible in (("gpu", _has_gpu), ("dali", _has_dali)):
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and not is_possible():
            config.hook.pytest_deselected(items=marked)
            items[:] = [item for item in items if item not in set(marked)]


@pytest.fixture(autouse=True, scope="module")
def worlds_end_with_their_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """Worlds of ranks end; one that this process itself has joined, where a rank's should have, fails the file."""
    yield
    if "tests.gloo_world" in sys.modules:
        sys.modules["tests.gloo_world"].end_worlds()
    fail_for_a_world_left_behind(request.node.nodeid)


def fail_for_a_world_left_behind(file: str) -> None:
    """Leave the world that this process is in, if it is in one, and name the file that joined it."""
    if "torch" not in sys.modules or not sys.modules["torch"].distributed.is_initialized():
        return
    from megaphi.parallel.world import stop_world

    stop_world()
    pytest.fail(f"{file} leaves this process in a world, where later files fail: run_in_world joins one on a rank")


def pytest_collection_finish() -> None:
    """The garbage collector need not go through modules and tests again and again."""
    gc.collect()
    gc.freeze()


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _has_dali() -> bool:
    return find_spec("nvidia") is not None and find_spec("nvidia.dali") is not None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium of this machine, for tests of pages; they are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page of `browser`, whose test fails by any error of a script or of a policy.

    The browser's own line about a request that a server refused is none: tests of what a page says then see to it.
    """
    page = browser.new_page()
    page.set_default_timeout(15_000)
    problems: list[Any] = []

    def heard(message: Any) -> None:
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            problems.append(message.text)

    page.on("pageerror", lambda error: problems.append(error))
    page.on("console", heard)
    yield page
    page.close()
    assert not problems
