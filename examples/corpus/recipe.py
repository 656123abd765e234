"""The five sources of the example corpus, each a recipe of curation: `python examples/corpus/build.py` runs them.

    megaphi curate examples/corpus/recipe.py:web steps.sample_by_hash.characters=3000000

What they read lies in runs/corpus/packages, where build.py unpacks it. The steps are those of any other recipe; what is
particular to these packages is in `steps.py`, and two sources have no other maker here than rules: `exercises` makes
worked exercises, `page_exercises.py` asks about pages. With a model these are the recipes synthetic_problems and
synthetic_textbooks.
"""

from __future__ import annotations

from exercises.read import ReadExercises
from page_exercises import PageExercises
from steps import DictionaryEntries, Length, NamedByPath, NoTests

from megaphi.curation.decontaminate import Benchmark, Decontaminate
from megaphi.curation.deduplicate.exact import ExactDuplicates
from megaphi.curation.deduplicate.near import NearDuplicates
from megaphi.curation.extract.extract import Extract
from megaphi.curation.filter.code import CodeQuality
from megaphi.curation.filter.corruption.corruption import Corruption
from megaphi.curation.filter.gopher import GopherQuality, GopherRepetition
from megaphi.curation.filter.language import IdentifyLanguage
from megaphi.curation.filter.personal_data.mask import PersonalData
from megaphi.curation.read.code import ReadCode
from megaphi.curation.read.files import ReadFiles
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation
from megaphi.curation.select.hold_out import HoldOut
from megaphi.curation.select.sample import SampleByHash
from megaphi.curation.write.json_lines import WriteJsonLines

HOME = "runs/corpus"
PACKAGES = f"{HOME}/packages"
NO_BENCHMARK = Decontaminate(benchmarks=(Benchmark(name="humaneval", path=f"{PACKAGES}/benchmarks"),))
HELD_OUT = HoldOut(one_in=16)
BY_SPLIT = WriteJsonLines(by="split")


def web() -> Curation:
    """HTML pages of a manual as text, with their formulas and code, filtered as a crawl is."""
    return Curation(
        recipe="corpus_web",
        folder=f"{HOME}/web",
        read=ReadFiles(paths=(f"{PACKAGES}/web",), endings=(".html",)),
        steps=(
            NamedByPath(),
            Extract(engine="resiliparse"),
            Length(),
            IdentifyLanguage(),
            Corruption(),
            GopherRepetition(),
            GopherQuality(minimum_alphabetic=0.5),  # half the tokens of pages with code and formulas are signs
            PersonalData(),
            ExactDuplicates(),
            NearDuplicates(),
            NO_BENCHMARK,
            SampleByHash(characters=1_500_000),
            HELD_OUT,
        ),
        write=BY_SPLIT,
        keep_after=("extract",),
    )


def rewrites() -> Curation:
    """Pages of `web`, on their side of the split, rewritten by rule as questions, gaps, tasks and summaries."""
    return Curation(
        recipe="corpus_rewrites",
        folder=f"{HOME}/rewrites",
        read=ReadJsonLines(paths=(f"{HOME}/web/documents",)),
        steps=(PageExercises(), Length(maximum_characters=48_000), ExactDuplicates(), NO_BENCHMARK),
        write=BY_SPLIT,
    )


def synthetic() -> Curation:
    """Worked exercises made by rule, each answer checked by a second method."""
    return Curation(
        recipe="corpus_synthetic",
        folder=f"{HOME}/synthetic",
        read=ReadExercises(),
        steps=(ExactDuplicates(), NO_BENCHMARK, HELD_OUT),
        write=BY_SPLIT,
    )


def code() -> Curation:
    """Source files of standard libraries, as they are."""
    return Curation(
        recipe="corpus_code",
        folder=f"{HOME}/code",
        read=ReadCode(paths=(f"{PACKAGES}/code/*",), languages=("Python", "Go")),
        steps=(
            NoTests(),
            CodeQuality(),
            Length(),
            ExactDuplicates(),
            NearDuplicates(),
            NO_BENCHMARK,
            SampleByHash(characters=900_000, by="repository"),
            HELD_OUT,
        ),
        write=BY_SPLIT,
    )


def acquired() -> Curation:
    """Books and speeches, as they are; entries of the Jargon File twelve to a document."""
    return Curation(
        recipe="corpus_acquired",
        folder=f"{HOME}/acquired",
        read=ReadFiles(paths=(f"{PACKAGES}/acquired",), endings=(".txt", ".gz")),
        steps=(
            NamedByPath(),
            DictionaryEntries(),
            Extract(),
            Length(),
            IdentifyLanguage(),
            Corruption(),
            GopherRepetition(),
            GopherQuality(minimum_alphabetic=0.6),  # a dictionary has many signs
            ExactDuplicates(),
            NO_BENCHMARK,
            SampleByHash(characters=260_000, by="origin"),
            HELD_OUT,
        ),
        write=BY_SPLIT,
    )
