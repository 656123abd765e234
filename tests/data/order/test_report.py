"""The report of what a run reads: the paper's numbers for Phi-4, and any plan against counting sample by sample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megaphi.data.order.blend import Blend
from megaphi.data.order.mixture import Mixture, Share, Source, Stage
from megaphi.data.order.plot import plot_mixture
from megaphi.data.order.report import Shortage, repeats, report_mixture, shortages
from megaphi.data.order.schedule import lay_out_stages
from megaphi.data.order.source_content import SourceContent, source_content
from megaphi.data.storage.indexed_dataset_writer import IndexedDatasetWriter
from megaphi.errors import InputError
from megaphi.recipes.phi4_14b import phi4_sources

NAMES = ("web", "code", "books")
PHI4 = {"steps": 424_000, "sequence_length": 4_096, "global_batch": 5_760}
STAGED = (
    Stage(name="broad", tokens=9_000_000_000_000),
    Stage(
        name="late",
        shares=(Share(name="synthetic", weight=2), Share(name="code", weight=1)),
        sequence_length=16_384,
        global_batch=1_440,
    ),
)


def test_phi4_reads_what_the_paper_says():
    report = report_mixture(Mixture(sources=phi4_sources("nowhere")), **PHI4)
    assert report.tokens == 10_003_415_040_000
    assert [source.tokens for source in report.sources] == [
        1_500_512_256_000,
        1_500_512_256_000,
        4_001_366_016_000,
        2_000_683_008_000,
        1_000_341_504_000,
    ]
    assert [f"{source.epochs:.1f}" for source in report.sources] == ["1.2", "5.2", "13.8", "2.4", "1.7"]
    assert [source.epochs_begun for source in report.sources] == [(2,), (6,), (14,), (3,), (2,)]
    assert [(found.source, found.stage) for found in repeats(report)] == [("rewrites", "all"), ("synthetic", "all")]


def test_stages_of_phi4():
    report = report_mixture(Mixture(sources=phi4_sources("nowhere"), stages=STAGED), **PHI4)
    broad, late = report.stages
    assert (broad.first_step, broad.steps, late.first_step, late.steps) == (0, 381_470, 381_470, 42_530)
    assert [(read.name, read.samples) for read in late.sources] == [("synthetic", 40_828_800), ("code", 20_414_400)]
    web, _, synthetic, *_ = report.sources
    assert (web.epochs_begun, synthetic.epochs_begun) == ((2, 0), (13, 2))
    found = repeats(report, above=13)
    assert [(repeat.source, repeat.stage) for repeat in found] == [("synthetic", "late")]
    assert repeats(report, above=found[0].epochs) == (), "exactly the limit is not above it"


@st.composite
def plans(draw):
    """A mixture of three sources in one to four stages, the number of steps it lasts, and sizes of its sources."""
    weight = st.sampled_from([0.1, 0.25, 1.0, 3.0, 1 / 3])
    stages, steps = [], 0
    for number in range(draw(st.integers(1, 4))):
        chosen = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=3))
        length, batch, own_steps = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 20))
        shares = tuple(Share(name=name, weight=draw(weight)) for name in chosen)
        tokens = length * batch * own_steps
        stages.append(
            Stage(name=f"s{number}", tokens=tokens, shares=shares, sequence_length=length, global_batch=batch)
        )
        steps += own_steps
    sources = tuple(Source(name=name, weight=draw(weight), paths=(name,)) for name in NAMES)
    sizes = {}
    for name in NAMES:
        held = draw(st.integers(1, 300))
        sizes[name] = SourceContent(tokens=held, unique_tokens=draw(st.integers(1, held)), counted=True)
    return Mixture(sources=sources, stages=tuple(stages)), steps, sizes


@given(plan=plans(), limit=st.sampled_from([0.5, 1.0, 4.0]))
@settings(max_examples=60, deadline=None)
def test_any_plan_is_what_counting_sample_by_sample_gives(plan, limit):
    mixture, steps, sizes = plan
    report = report_mixture(mixture, steps=steps, sequence_length=1, global_batch=1, sizes=sizes)
    read, begun, crossed = dict.fromkeys(NAMES, 0), {name: [] for name in NAMES}, {}
    spans = lay_out_stages(mixture, steps=steps, sequence_length=1, global_batch=1)
    for span, stage in zip(spans, report.stages, strict=True):
        for counts in begun.values():
            counts.append(0)
        samples = dict.fromkeys(span.sources, 0)
        for source in Blend(span.weights, total_samples=span.samples).locate(np.arange(span.samples)).source_B:
            name = span.sources[source]
            samples[name] += 1
            for _ in range(span.sequence_length):
                begun[name][-1] += read[name] % sizes[name].tokens == 0
                read[name] += 1
                if read[name] > limit * sizes[name].unique_tokens:
                    crossed.setdefault(name, span.name)
        assert {reading.name: reading.samples for reading in stage.sources} == samples
    assert report.tokens == sum(read.values())
    for source in report.sources:
        assert (source.tokens, list(source.epochs_begun)) == (read[source.name], begun[source.name])
        assert source.epochs == read[source.name] / sizes[source.name].unique_tokens
        parts = [reading.epochs for stage in report.stages for reading in stage.sources if reading.name == source.name]
        assert math.fsum(parts) == pytest.approx(source.epochs)
    assert {found.source: found.stage for found in repeats(report, above=limit)} == crossed


def test_files_count_more_than_the_recipes_word(tmp_path):
    def source(*paths: str) -> Source:
        return Source(name="web", weight=1, paths=tuple(str(tmp_path / path) for path in paths), unique_tokens=7)

    for name, tokens in (("a", 30), ("b", 12)):
        with IndexedDatasetWriter(tmp_path / name, "uint16") as writer:
            writer.add_document(np.zeros(tokens))
            writer.finish({})

    def size(*paths: str) -> tuple[int | None, int | None, bool]:
        found = source_content(source(*paths), sequence_length=8)
        return found.tokens, found.unique_tokens, found.counted

    assert size("a", "b") == (42, 42, True)
    assert size("a", "elsewhere") == size() == (7, 7, False)
    report = report_mixture(Mixture(sources=(source("a", "b"),)), steps=2, sequence_length=3, global_batch=14)
    assert (report.sources[0].epochs, report.sources[0].counted) == (2.0, True)
    assert shortages(report) == (), "it holds more than the recipe expects"


def test_copies_and_shortages(tmp_path):
    """Epochs are of unique tokens, where the .json says them; passes begin where the files begin."""
    with IndexedDatasetWriter(tmp_path / "a", "uint16") as writer:
        writer.add_documents(np.zeros(40), [20, 20])
        writer.finish({"unique_tokens": 20})
    expected = Source(name="web", weight=1, paths=(str(tmp_path / "a"),), unique_tokens=30)
    report = report_mixture(Mixture(sources=(expected,)), steps=3, sequence_length=2, global_batch=10)
    (web,) = report.sources
    assert (web.held_tokens, web.unique_tokens, web.epochs, web.epochs_begun) == (40, 20, 3.0, (2,))
    assert shortages(report) == (Shortage("web", 3.0, 2.0, 20, 30),)
    with open(tmp_path / "a.bin", "r+b") as file:
        file.write(b"\1")
    with pytest.raises(InputError, match="its tokens are not those that"):
        source_content(expected, sequence_length=2)


def test_an_unknown_size_is_no_number():
    mixture = Mixture(sources=(Source(name="web", weight=1, paths=("nowhere",)),))
    report = report_mixture(mixture, steps=1, sequence_length=4, global_batch=1)
    (source,) = report.sources
    assert (source.tokens, source.unique_tokens, source.epochs, source.epochs_begun) == (4, None, None, None)
    assert repeats(report) == ()


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        (Mixture(sources=()), "the mixture has no sources"),
        (Mixture(sources=phi4_sources(), stages=(Stage(name="a", sequence_length=-1),)), "sequence_length=-1 in stage"),
        (
            Mixture(sources=phi4_sources(), stages=(Stage(name="a", tokens=1),)),
            "last 1 steps, but training.steps=424,000",
        ),
    ],
)
def test_plans_that_cannot_be_meant(mixture, message):
    with pytest.raises(InputError, match=message):
        report_mixture(mixture, **PHI4)


def test_the_picture_shows_every_share_where_it_belongs(tmp_path):
    """Read back as pixels: the colours of a stage cover the part of the picture's width that is its part of the run."""
    from matplotlib import image

    report = report_mixture(Mixture(sources=phi4_sources("nowhere"), stages=STAGED), **PHI4)
    plot_mixture(report, tmp_path / "m.png", title="phi4", warn_epochs=4)
    pixels = (image.imread(tmp_path / "m.png")[:, :, :3] * 255).round().astype(int)
    assert pixels.shape[:2] == (900, 1080)
    upper = pixels[: 900 * 2 // 5]

    def area(colour: str) -> int:
        wanted = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
        return int((np.abs(upper - wanted).max(axis=2) <= 2).sum())

    web, rewrites, synthetic, code, acquired = map(area, ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"))
    whole = web + rewrites + synthetic + code + acquired
    expected = [source.share for source in report.sources]
    assert np.allclose([part / whole for part in (web, rewrites, synthetic, code, acquired)], expected, atol=0.01)
    assert whole > 0.5 * upper.shape[0] * upper.shape[1]
