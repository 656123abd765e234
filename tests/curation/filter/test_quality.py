"""Classifiers from labels to verdicts: split, training to the byte, calibration, thresholds, report, steps.

The texts are drawn from two small vocabularies that overlap, so that a classifier is right most of the time only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.cli import main
from megaphi.config import field_help
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.filter.quality.calibration import calibration_from, fit_calibration
from megaphi.curation.filter.quality.classifier import open_classifier
from megaphi.curation.filter.quality.labelled import RecordKeys, features_of, read_labelled
from megaphi.curation.filter.quality.measures import (
    Judged,
    at_threshold,
    average_precision,
    curve,
    portion,
    threshold_for,
)
from megaphi.curation.filter.quality.steps import Educational, LanguageClassifier, Quality, Topic, TopicMinimum
from megaphi.curation.step import Step, StepContext
from megaphi.errors import InputError
from tests.curation.pipeline.conftest import records_of
from tests.test_documentation import save_recipes
from tests.test_house import ROOT

GOOD = "theorem proof integral function value result shown given therefore because equation".split()
BAD = "buy cheap click offer casino free login menu home cookie subscribe".split()
SHARED = "the of and a to in is page we one it for".split()
SMALL = ["bucket=1000", "dimension=4", "minimum_count=1", "epochs=5", "learning_rate=0.5"]


def text_of(words: Sequence[str], draw: random.Random) -> str:
    return " ".join(draw.choice(words if draw.random() < 0.15 else SHARED) for _ in range(40))


def write(path: Path, records: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels, and the classifiers of quality (from scores) and of topics (from labels)."""
    root, draw = tmp_path_factory.mktemp("quality"), random.Random(1)
    records = [
        {
            "text": text_of(GOOD if number % 2 else BAD, draw),
            "metadata": {"score": 4 if number % 2 else 1},
            "topic": "maths" if number % 2 else "shops",
            "source": f"site {number % 3}",
        }
        for number in range(600)
    ]
    write(root / "labels.jsonl", records)
    words = ["curate", "train-classifier", str(root / "labels.jsonl"), *SMALL]
    assert main([*words, "--output", str(root / "quality"), "score_key=metadata.score"]) == 0
    assert main([*words, "--output", str(root / "topic"), "label_key=topic"]) == 0
    return root


def look(step: Step, text: str, **metadata: object) -> Outcome:
    context = StepContext(folder=Path(), open_sampler=lambda name: pytest.fail(name))
    found = step.open(context)(Document(id="1", source="s", place="p", text=text, metadata=metadata))
    assert isinstance(found, Document | Rejected)
    return found


def test_the_report_holds_against_a_recount(folder: Path) -> None:
    report = json.loads((folder / "quality/report.json").read_text())
    classifier = open_classifier(str(folder / "quality"))
    keys = RecordKeys(score="metadata.score")
    texts = read_labelled([str(folder / "labels.jsonl")], keys=keys, minimum_score=3, shares=(0.15, 0.15), seed=0)
    kept = [item for item in texts.test if classifier.judge(item.text)[1] >= classifier.minimum]
    right = sum(item.label == "high" for item in kept)
    assert report["at_minimum"]["precision"]["of"] == len(kept)
    assert report["at_minimum"]["precision"]["count"] == right > 20
    assert report["at_minimum"]["recall"]["of"] == sum(item.label == "high" for item in texts.test)
    assert report["texts"]["test"]["high"] + report["texts"]["test"]["low"] == len(texts.test)
    assert report["at_minimum"]["precision"]["share"] > 0.85
    assert report["average_precision"] > 0.9
    assert sum(sum(row.values()) for row in report["confusion"].values()) == len(texts.test)
    assert (folder / "quality/curves.png").read_bytes().startswith(b"\x89PNG")
    assert "## Worst errors" in (folder / "quality/report.md").read_text()


def test_the_same_texts_give_the_same_model_to_the_byte(folder: Path, tmp_path: Path) -> None:
    junk = [bytes([number % 255 + 1]) * 50_000 for number in range(400)]  # memory that is not zero
    del junk
    words = ["curate", "train-classifier", str(folder / "labels.jsonl"), *SMALL, "score_key=metadata.score"]
    assert main([*words, "--output", str(tmp_path / "again")]) == 0
    for name in ("model.ftz", "classifier.json", "report.json", "report.md"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "quality" / name).read_bytes()


def reason(step: Step, text: str, **metadata: object) -> str:
    found = look(step, text, **metadata)
    assert isinstance(found, Rejected)
    return found.reason


def test_fields_that_two_steps_share_have_their_help_in_both() -> None:
    assert field_help(Quality) == field_help(Educational)
    assert list(field_help(Quality)) == ["model", "minimum", "minimum_by_topic", "by_language"]


def test_quality_keeps_and_rejects_with_the_minimum_of_the_training(folder: Path) -> None:
    step, draw = Quality(model=str(folder / "quality")), random.Random(2)
    good, bad = look(step, text_of(GOOD, draw) + " theorem proof"), look(step, text_of(BAD, draw) + " casino cheap")
    assert isinstance(good, Document)
    assert isinstance(bad, Rejected)
    assert bad.reason == "low_quality"
    assert good.metadata["quality"] > 0.9
    assert bad.document.metadata["quality"] < 0.1
    assert isinstance(look(Quality(model=step.model, minimum=0.0), bad.document.text), Document)
    educational = look(Educational(model=step.model), bad.document.text)
    assert isinstance(educational, Rejected)
    assert educational.reason == "low_educational_value"
    assert reason(step, "") == "low_quality"


def test_topics_have_thresholds_of_their_own(folder: Path) -> None:
    topic, model = Topic(model=str(folder / "topic")), str(folder / "quality")
    text = text_of(BAD, random.Random(3)) + " casino cheap buy"
    found = look(topic, text)
    assert isinstance(found, Document)
    assert found.metadata["topic"] == "shops"
    assert 0.5 < found.metadata["topic_score"] < 1
    quality = Quality(model=model, minimum_by_topic=(TopicMinimum(name="shops", minimum=0.0),))
    assert isinstance(look(quality, text, **found.metadata), Document)
    assert reason(quality, text, topic="maths") == "low_quality"
    assert reason(quality, text) == "no_topic"
    assert reason(Topic(model=topic.model, keep=("maths",)), text) == "topic"
    unsure = look(Topic(model=topic.model, minimum=1.0), text)
    assert isinstance(unsure, Document)
    assert unsure.metadata["topic"] == "other"


def test_the_recipe_of_the_page_has_a_path_for_what_is_not_science(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_recipes(ROOT / "docs" / "curation" / "filter.md", tmp_path)
    recipe = tmp_path / "my_topics.py"
    recipe.write_text(recipe.read_text().replace('"humanities"', '"shops"'))
    (tmp_path / "classifiers").symlink_to(folder)
    (tmp_path / "pages").mkdir()
    draw = random.Random(5)
    texts = {"maths": text_of(GOOD, draw) + " theorem", "shops": text_of(BAD, draw) + " casino"}
    write(tmp_path / "pages" / "a.jsonl", [{"id": name, "text": text} for name, text in texts.items()])
    words = ["curate", "my_topics.py:two_paths", "--processes", "1"]

    def kept(*fields: str) -> dict[str, str]:
        assert main([*words, *fields]) == 0
        records = records_of(tmp_path / "runs" / "two_paths" / "documents")
        return {record["id"]: record["metadata"]["topic"] for record in records}

    own = "steps.quality.minimum_by_topic.0.minimum="
    assert kept(f"{own}0") == {"maths": "maths", "shops": "shops"}
    assert kept(f"{own}0.99") == {"maths": "maths"}
    (rejected,) = records_of(tmp_path / "runs" / "two_paths" / "rejected")
    assert (rejected["id"], rejected["reason"]) == ("shops", "low_quality")


def test_languages_may_have_classifiers_of_their_own(folder: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned"
    turned.mkdir()
    (turned / "model.ftz").write_bytes((folder / "quality/model.ftz").read_bytes())
    manifest = json.loads((folder / "quality/classifier.json").read_text())
    (turned / "classifier.json").write_text(json.dumps({**manifest, "positive": "low"}))
    own = (LanguageClassifier(name="de", model=str(turned)),)
    step = Quality(model=str(folder / "quality"), by_language=own)
    text = text_of(GOOD, random.Random(4)) + " theorem proof"
    assert isinstance(look(step, text, language="en"), Document)
    assert isinstance(look(step, text, language="de"), Rejected)


def test_models_and_steps_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    for step, message in (
        (Quality(model=str(tmp_path)), "holds no classifier"),
        (Quality(model=str(folder / "topic")), "only Topic takes such a one"),
        (Topic(model=str(folder / "quality")), "Topic needs classes"),
        (Topic(model=str(folder / "topic"), keep=("math",)), "no topic 'math'"),
        (Quality(model=str(folder / "quality"), minimum_by_topic=(TopicMinimum(name="a", minimum=0.1),) * 2), "twice"),
    ):
        with pytest.raises(InputError, match=message):
            look(step, "text")
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("model.ftz", "classifier.json"):
        (copy / name).write_bytes((folder / "quality" / name).read_bytes())
    content = bytearray((copy / "model.ftz").read_bytes())
    content[-1] ^= 1
    (copy / "model.ftz").write_bytes(content)
    with pytest.raises(InputError, match="not the model that"):
        look(Quality(model=str(copy)), "text")


@pytest.mark.parametrize(
    ("records", "fields", "message"),
    [
        ([{"text": "a b", "label": "x"}] * 3, [], "give two at least"),
        ([{"text": ""}, {"text": "a"}], [], "2 records cannot be used"),
        ([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}], [], "is in the part for"),
        ([], ["score_key"], "field=value"),
        ([{"text": f"a {n}", "label": "xy"[n % 2]} for n in range(90)], ["positive=z"], "no text has this label"),
        ([{"text": "a", "label": "x"}], ["precision=2"], "precision"),
        ([{"text": "a", "label": "x"}], ["test_share=0.9"], "at least a tenth"),
        ([{"text": "a", "label": "x"}], ["buckets=9"], "Did you mean 'bucket'"),
    ],
)
def test_bad_input_is_one_message(
    records: list[dict], fields: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "labels.jsonl", records)
    words = ["curate", "train-classifier", str(path), "--output", str(tmp_path / "out"), *fields]
    if fields == ["score_key"]:
        words = ["curate", "train-classifier", "=3", "--output", str(tmp_path / "out")]
        message = "no file"
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_texts_stay_on_their_side_and_copies_count_once(tmp_path: Path) -> None:
    def read(records: list[dict]) -> dict[str, str]:
        path = write(tmp_path / "labels.jsonl", records)
        texts = read_labelled([str(path)], keys=RecordKeys(), minimum_score=3, shares=(0.3, 0.3), seed=5)
        assert texts.copies == 1
        assert texts.contradictions == 1
        return {item.text: part for part in ("train", "calibration", "test") for item in getattr(texts, part)}

    few = [{"text": f"text {number}", "label": "ab"[number % 2]} for number in range(40)]
    few += [few[0], {"text": "text 1", "label": "a"}]
    more = read([*few, *({"text": f"more {number}", "label": "a"} for number in range(40))])
    alone = read(few)
    assert "text 1" not in alone
    assert len(alone) == 39
    assert all(more[text] == part for text, part in alone.items())
    assert len(set(alone.values())) == 3


def test_a_text_cannot_write_labels_or_lines() -> None:
    line = features_of("Hello\n__label__0 42,000 </s>", longest=100)
    assert line == "hello ⏎ _ _ label _ _ 0 00,000 < / s >"


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_never_falls_and_is_the_best_such_function(pairs: list[tuple[float, bool]]) -> None:
    scores, right = [score for score, _ in pairs], [right for _, right in pairs]
    calibration = fit_calibration(scores, right)
    assert (
        calibration_from(
            json.loads(json.dumps({"scores": calibration.scores, "probabilities": calibration.probabilities})),
            where="x",
        )
        == calibration
    )
    found = calibration(np.sort(scores))
    assert np.all(np.diff(found) >= 0)
    assert np.all((found > 0) & (found < 1))
    # min-max formula of isotonic regression: the largest over starts of the smallest over ends of the means between.
    values = sorted(set(scores))
    groups = [[positive for score, positive in pairs if score == value] for value in values]
    least = 1 / (len(pairs) + 2)
    for place, value in enumerate(values):
        means = max(
            min(np.mean(list(chain(*groups[start : stop + 1]))) for stop in range(place, len(values)))
            for start in range(place + 1)
        )
        assert calibration(value) == pytest.approx(np.clip(means, least, 1 - least), abs=1e-9)


@pytest.mark.parametrize(
    "plain",
    [
        None,
        {},
        {"scores": [], "probabilities": []},
        {"scores": [0.1, 0.2], "probabilities": [0.5]},
        {"scores": [0.2, 0.1], "probabilities": [0.5, 0.6]},
        {"scores": [0.1, 0.2], "probabilities": [0.6, 0.5]},
        {"scores": [0.1], "probabilities": [1.5]},
        {"scores": ["a"], "probabilities": [0.5]},
    ],
)
def test_damaged_calibrations_are_refused(plain: object) -> None:
    with pytest.raises(InputError, match="calibration"):
        calibration_from(plain, where="classifier.json")


def judged(pairs: list[tuple[float, bool]]) -> list[Judged]:
    return [
        Judged(text="", label="", source="", place=str(place), answer="", probability=score, positive=right)
        for place, (score, right) in enumerate(pairs)
    ]


PAIRS = st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.booleans()), min_size=1, max_size=40)


@given(PAIRS, st.sampled_from([0.5, 0.8, 1.0]))
def test_the_threshold_is_the_lowest_that_reaches_the_precision(pairs: list[tuple[float, bool]], goal: float) -> None:
    minimum, chosen = threshold_for(judged(pairs), precision=goal, keep_share=None)
    precision = {
        value: np.mean([right for score, right in pairs if score >= value]) for value in {score for score, _ in pairs}
    }
    reached = [value for value, share in precision.items() if share >= goal]
    assert minimum == min(reached) if reached else precision[minimum] == max(precision.values())
    assert ("not reached" in chosen) == (not reached)


@given(PAIRS)
def test_average_precision_is_scikit_learns(pairs: list[tuple[float, bool]]) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn, the independent side, is not installed")
    if any(right for _, right in pairs):
        theirs = metrics.average_precision_score([right for _, right in pairs], [score for score, _ in pairs])
        assert average_precision(curve(judged(pairs))) == pytest.approx(theirs)


def test_a_share_can_be_kept() -> None:
    items = judged([(number / 100, False) for number in range(100)])
    minimum, _ = threshold_for(items, precision=None, keep_share=0.2)
    assert at_threshold(items, minimum)["kept"].count == 20


def test_intervals_are_wilsons() -> None:
    # Newcombe 1998, table I: 81 of 263, by the score method.
    found = portion(81, 263)
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)
    assert portion(0, 0).high == 1.0


def test_whole_sources_may_be_the_test_part(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["curate", "train-classifier", str(folder / "labels.jsonl"), *SMALL, "label_key=topic"]
    assert main([*words, "--output", str(tmp_path / "topic"), "test_sources=site 1"]) == 0
    report = json.loads((tmp_path / "topic" / "report.json").read_text())
    assert sum(report["texts"]["test"].values()) == 200
    assert {name.partition(":")[0] for name in report["confusion"]} == {"site 1"}
    for label in ("maths", "shops"):
        rows = {name.partition(": ")[2]: row for name, row in report["confusion"].items()}
        right, answers = rows[label][label], sum(row.get(label, 0) for row in rows.values())
        assert report["classes"][label]["recall"]["share"] == right / sum(rows[label].values())
        assert report["classes"][label]["precision"]["share"] == right / answers
    assert "| shops | " in (tmp_path / "topic" / "report.md").read_text().partition("## Classes")[2]
    assert json.loads((folder / "quality" / "report.json").read_text())["classes"] == {}
    assert main([*words, "--output", str(tmp_path / "none"), "test_sources=site 7"]) == 2
    assert "no text is of the source 'site 7'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
