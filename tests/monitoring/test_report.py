"""`megaphi report`: one page that holds all of a run, loads nothing, and takes nothing of a file for markup."""

from __future__ import annotations

import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.data.order.mixture import Mixture, Share, Source, Stage
from megaphi.engine.reporting.events import Events
from megaphi.engine.reporting.step_times import StepTimes
from megaphi.engine.retention import Saving
from megaphi.files import read_json
from megaphi.monitoring.markup import element
from megaphi.monitoring.observed_run import ObservedRun
from megaphi.monitoring.page import page
from megaphi.monitoring.sources import source_shares
from megaphi.monitoring.svg_chart import _Scale, label, thinned, ticks
from megaphi.stages.pretrain import Pretrain
from tests.engine.layout_runs import TINY, tiny_run
from tests.gloo_world import run_in_world
from tests.monitoring.run_folders import append, record, write_run
from tests.stages.stage_runs import stage_here
from tests.stages.test_mixture_changes import write_tokens

HOSTILE = '</td></script><script>alert(1)</script><img src=x onerror="alert(2)">\x1b[2J\u202e'
FINITE = st.floats(-1e12, 1e12)


class Tags(HTMLParser):
    """Names of elements, attributes and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


def test_a_page_has_everything_and_loads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "run", (record(step, mfu=0.4) for step in range(1, 241)))
    append(run, [record(241, mfu=0.4, margin=0.5, **{"validation_loss": 3.25, "validation_loss/web": 4.5})])
    Events(run).add("skipped", step=120, text="the loss was 99.0", reason="spike")
    with StepTimes(run, rank=3, place="data 3") as times:
        times.add(1, {"forward_backward": 0.5})
    assert main(["report", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    text = (run / "report.html").read_text()
    found = Tags(text)
    assert not found.tags & {"script", "img", "link", "iframe", "a", "object", "image", "use"}
    assert not found.attributes & {"src", "href", "srcset"}
    assert "default-src &#x27;none&#x27;" in text
    titles = ["Loss", "Validation loss by source", "Throughput", "MFU", "Gradient norm", "Learning rate", "Memory"]
    for title in [*titles, "Phases", "margin"]:
        assert text.count(f"<figcaption><b>{title}</b>") == 1, title
    assert text.count('class="problem"><title>skipped: the loss was 99.0</title>') == len([*titles, "Phases"]) - 1
    for words in (
        "quickstart_pretrain",
        "task.mixture.sources.web.weight",
        "reason: spike",
        "40.0%",
        "data 3",
        "500.0",
    ):
        assert words in found.text, words


def test_nothing_of_a_file_is_markup(tmp_path: Path) -> None:
    pages = []
    for name, words in (("hostile", HOSTILE), ("harmless", "words")):
        run = write_run(tmp_path / name, map(record, range(1, 5)), recipe=words)
        names = {f"validation_loss/{words}": 1.0, f"tokens/{words}": 5, f"seconds/{words}": 1.0, f"{words}": 2.0}
        append(run, [record(5, **names), record(6, loss=math.nan, learning_rate=math.inf, tokens=10**300)])
        Events(run).add("saved", step=5, text=words, **{words: {"a": words}})
        with StepTimes(run, rank=1, place=words) as times:
            times.add(1, {words: 1.0})
        pages.append(Tags(page([ObservedRun(run)])))
        both = Tags(page([ObservedRun(run), ObservedRun(write_run(tmp_path / f"{words[:2]}x", [record(1)]))]))
        assert both.tags <= pages[-1].tags
    hostile, harmless = pages
    assert hostile.tags == harmless.tags
    assert hostile.attributes == harmless.attributes
    assert "alert(1)" in hostile.text
    assert not {"\x1b", "\u202e"} & set(hostile.text)
    assert element("p", "<b>", title='"><script>') == '<p title="&quot;&gt;&lt;script&gt;">&lt;b&gt;</p>'


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other = (write_run(tmp_path / name, [record(1)]) for name in ("run", "other"))
    (tmp_path / "file").write_text("in the way")
    for words, message in (
        ([run, other], "--output FILE"),
        ([run, "--output", tmp_path / "page.pdf"], "the report is an HTML page"),
        ([run, "--output", tmp_path / "file" / "page.html"], "file"),
        ([tmp_path / "nothing"], "is no run folder"),
    ):
        before = sorted(tmp_path.rglob("*"))
        assert main(["report", *map(str, words)]) == 2
        assert message in capsys.readouterr().err
        assert sorted(tmp_path.rglob("*")) == before
    assert main(["report", str(run), str(other), "--output", str(tmp_path / "both.html")]) == 0
    assert "Losses at the same tokens" in (tmp_path / "both.html").read_text()


def test_a_run_reads_what_its_stages_plan(tmp_path: Path) -> None:
    """A real run of two stages, which differ in sequence length, batch and shares."""
    sources = []
    for name, tokens in (("web", 3_000), ("books", 1_100)):
        write_tokens(tmp_path / name, tokens)
        sources.append(Source(name=name, weight=0.7 if name == "web" else 0.3, paths=(str(tmp_path / name),)))
    shares = (Share(name="books", weight=1.0), Share(name="web", weight=2.0))
    stages = (
        Stage(name="short", tokens=6 * 8 * 32),
        Stage(name="long", sequence_length=64, global_batch=4, shares=shares),
    )
    run = tiny_run(
        folder=str(tmp_path / "run"),
        task=Pretrain(mixture=Mixture(sources=tuple(sources), stages=stages)),
        model=replace(TINY, layers=2, vocabulary=512),
    )
    run = replace(run, training=replace(run.training, steps=9, stop_after=8), saving=Saving(every=4))
    assert run_in_world(stage_here, run, processes=1)[0]["message"] is None
    observed = ObservedRun(tmp_path / "run")
    found = {one.name: one for one in source_shares(observed)}
    state = read_json(tmp_path / "run" / "checkpoints" / "step_00000008" / "state.json", what="state")
    assert {name: one.read for name, one in found.items()} == state["tokens_by_source"]
    assert {name: one.planned for name, one in found.items()} == state["tokens_by_source"]
    assert [found[name].held for name in ("web", "books")] == [3_000, 1_100]
    text = page([observed])
    for words in ("share planned", state["versions"]["megatron-core"], "saved: ", "stopped: "):
        assert words in text


@given(st.lists(FINITE, min_size=1, max_size=60), st.integers(1, 30))
def test_extremes_of_every_pixel_are_kept(values: list[float], pixels: int) -> None:
    points = [(float(at), value) for at, value in enumerate(values)]
    x = _Scale(0.0, float(len(points)), 0.0, float(pixels))
    kept = thinned(points, x)
    assert kept == sorted(kept)
    assert len(kept) <= 2 * (pixels + 1) + 2
    for pixel in {int(x(at)) for at, _ in points}:
        here = [value for at, value in points if int(x(at)) == pixel]
        left = [value for at, value in kept if int(x(at)) == pixel]
        assert (min(left), max(left)) == (min(here), max(here))
    assert (kept[0], kept[-1]) == (points[0], points[-1])


@given(FINITE, FINITE)
def test_ticks_are_few_and_within(first: float, last: float) -> None:
    found = ticks(first, last)
    assert len(found) <= 12
    margin = 1e-6 * max(abs(first), abs(last))
    assert last <= first or all(first - margin <= tick <= last + margin for tick in found)


def test_labels() -> None:
    assert [label(one) for one in (0.002, 3.5, 6_000, 120_000, 2.5e6, 9.8e12)] == [
        "0.002",
        "3.5",
        "6000",
        "120K",
        "2.5M",
        "9.8T",
    ]
