"""Web pages to training documents, as the report's web source was made (section 2.3): the whole recipe.

    megaphi curate web_pages read.paths=crawl/ steps.decontaminate.benchmarks.0.path=benchmarks/ --processes 16

Text is extracted with its formulas, code and tables; what is not in a language of Phi-4's, repeats itself, or looks
like no text is taken out by published heuristics; personal data is masked; copies are removed, whole, nearly whole and
line by line; and what holds a benchmark's item is left out. Heuristics for prose are eased where they would take out
code and formulas, and C4's rules for lines are not among them. The classifiers that the report trained on a million
pages labelled by a model are steps too, but have no default: `web_pages_graded` takes those that you trained.
"""

from __future__ import annotations

from dataclasses import replace

from megaphi.curation.decontaminate import Benchmark, Decontaminate
from megaphi.curation.deduplicate.exact import ExactDuplicates
from megaphi.curation.deduplicate.near import NearDuplicates
from megaphi.curation.deduplicate.paragraphs import RepeatedParagraphs
from megaphi.curation.extract.extract import Extract
from megaphi.curation.filter.corruption.corruption import Corruption
from megaphi.curation.filter.fineweb import FineWebQuality
from megaphi.curation.filter.gopher import GopherQuality, GopherRepetition
from megaphi.curation.filter.language import IdentifyLanguage
from megaphi.curation.filter.personal_data.mask import PersonalData
from megaphi.curation.filter.quality.steps import Educational, Quality, Topic
from megaphi.curation.read.files import ReadFiles
from megaphi.curation.read.warc import ReadWarc
from megaphi.curation.recipe import Curation

HTML = (".html", ".htm", ".xhtml")


def web_pages() -> Curation:
    """Folders of HTML pages."""
    return Curation(
        recipe="web_pages",
        folder="runs/web_pages",
        read=ReadFiles(paths=("data/pages",), endings=HTML),
        steps=(
            Extract(),
            IdentifyLanguage(),
            Corruption(),
            GopherRepetition(),
            GopherQuality(minimum_alphabetic=0.5),  # of a page with code and formulas, half the tokens are signs
            FineWebQuality(maximum_repeated_characters=0.1),  # as the paper prints it: lines of code repeat
            PersonalData(),
            ExactDuplicates(),
            NearDuplicates(),
            RepeatedParagraphs(),
            Decontaminate(benchmarks=(Benchmark(path="data/benchmarks"),)),
        ),
        keep_after=("extract",),
    )


def web_crawl() -> Curation:
    """The same of WARC files, as Common Crawl's."""
    pages = replace(web_pages(), recipe="web_crawl", folder="runs/web_crawl")
    return replace(pages, read=ReadWarc(paths=("data/warc",), media_types=("text/html", "application/xhtml+xml")))


def web_pages_graded() -> Curation:
    """The same as `web_pages`, then topics, and quality and educational value with thresholds of their own by topic.

    The report raises what is not science by a path of its own: set steps.quality.minimum_by_topic.
    """
    pages = web_pages()
    graded = (
        Topic(model="data/classifiers/topic"),
        Quality(model="data/classifiers/quality"),
        Educational(model="data/classifiers/educational"),
    )
    return replace(pages, recipe="web_pages_graded", folder="runs/web_pages_graded", steps=(*pages.steps, *graded))
