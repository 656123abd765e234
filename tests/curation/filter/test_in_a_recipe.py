"""All filters as steps of one recipe: their settings pass the recipe's checks, and a run counts their reasons."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megaphi.cli import main
from megaphi.curation.filter.quality.steps import LanguageClassifier, Quality, TopicMinimum
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation, check_curation, override_curation
from megaphi.data.text.documents import read_records
from megaphi.errors import InputError

RECIPE = '''"""All filters that need no model."""

from megaphi.curation.filter.c4 import C4Lines
from megaphi.curation.filter.corruption.corruption import Corruption
from megaphi.curation.filter.fineweb import FineWebQuality
from megaphi.curation.filter.gopher import GopherQuality, GopherRepetition
from megaphi.curation.filter.language import IdentifyLanguage
from megaphi.curation.filter.personal_data.mask import PersonalData
from megaphi.curation.read.json_lines import ReadJsonLines
from megaphi.curation.recipe import Curation


def pages():
    steps = IdentifyLanguage(), Corruption(), GopherRepetition(), C4Lines(), GopherQuality(), FineWebQuality()
    return Curation(
        recipe="pages", folder="out", read=ReadJsonLines(paths=("pages.jsonl",)), steps=(*steps, PersonalData())
    )
'''
PROSE = (
    "The cat sat on the mat, and it looked out of the window to see a bird that had come down from the old tree.\n"
    "Nobody in the house would have thought that it could be quick enough, for it was heavy with years and with food.\n"
    "But when the bird hopped closer to the glass, everything changed: a leap, a crash, a broken pot of flowers.\n"
    "We found both of them in the garden afterwards, and neither seemed to remember what the quarrel was about.\n"
    "Write to jane@acme.org, who says that animals forgive sooner than people do, which may be why they sleep well.\n"
)


def test_a_run_counts_reasons_and_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [
        PROSE,
        "Комитет снова собрался в четверг, и никто не смог договориться.",
        "We read more about it and then some. " * 100,
        PROSE[:110],
    ]
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "my_pages.py").write_text(RECIPE)
    words = ["curate", "my_pages.py:pages", "--processes", "1", "steps.personal_data.replacement=<{kind}>"]
    assert main(words) == 0
    [(_, kept)] = read_records(tmp_path / "out/documents/00000.jsonl.zst")
    assert kept["text"] == PROSE.strip().replace("jane@acme.org", "<EMAIL>")
    assert kept["metadata"]["language"] == "en"
    assert kept["metadata"]["personal_data"] == {"email": 1}
    rejected = [record for _, record in read_records(tmp_path / "out/rejected/stage-01/00000.jsonl.zst")]
    reasons = {record["reason"] for record in rejected}
    assert reasons == {"language", "compresses_too_well", "too_few_sentences"}


def test_settings_of_classifiers_pass_through_a_recipe() -> None:
    step = Quality(
        model="some",
        minimum_by_topic=(TopicMinimum(name="history", minimum=0.4),),
        by_language=(LanguageClassifier(name="de", model="german"),),
    )
    curation = check_curation(Curation(recipe="r", folder="f", read=ReadJsonLines(paths=("x",)), steps=(step,)))
    assert curation.steps[0] == step
    changed = override_curation(
        curation, ["steps.quality.minimum_by_topic.history.minimum=0.2", "steps.quality.minimum=0.7"]
    )
    assert isinstance(quality := changed.steps[0], Quality)
    assert (quality.minimum, quality.minimum_by_topic[0].minimum) == (0.7, 0.2)
    with pytest.raises(InputError, match="minimum"):
        override_curation(curation, ["steps.quality.minimum=1.5"])
