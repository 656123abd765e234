"""Events of codelion/pts: its three schemas are read, and a record that is written again loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from megaphi.errors import InputError
from megaphi.pivotal.interchange.pts_events import read_events, token_event, write_events

TOKEN = {
    "schema_version": "2.0",
    "event_id": "token_evt_d1ac89c8fe71",
    "event_type": "pivotal_token",
    "granularity": "token",
    "visibility": "emitted",
    "model_id": "Qwen/Qwen3-0.6B",
    "query": "What is 17 * 24?",
    "context": "Let me compute 17 * 24.",
    "label": " Wait",
    "position": 73,
    "token_id": 13824,
    "prob_before": 0.35,
    "prob_after": 0.67,
    "prob_delta": 0.32,
    "score": 0.32,
    "is_positive": True,
    "search_method": "token_pts",
    "metadata": {"prob_threshold": 0.2},
}
SENTENCE = TOKEN | {"event_type": "thought_anchor", "granularity": "sentence", "label": "Wait.", "position": 5}
LATENT = TOKEN | {
    "event_type": "latent_metatoken",
    "granularity": "latent",
    "position": -2,
    "layer": 18,
    "prob_before": None,
    "prob_after": None,
}
OLD_TOKEN = {
    "query": "q",
    "pivot_context": "so",
    "pivot_token": " x",
    "pivot_token_id": 7,
    "prob_before": 0.5,
    "prob_after": 0.1,
    "model_id": "m",
    "some_field_of_theirs": [1],
}
OLD_SENTENCE = {
    "query": "q",
    "prefix_context": "so",
    "sentence": "Thus x.",
    "sentence_id": 3,
    "prob_without_sentence": 0.25,
    "prob_with_sentence": 0.75,
    "sentence_category": "planning",
}


def written(tmp_path: Path, *records: Any) -> Path:
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def test_every_schema_is_read_and_nothing_is_lost_when_it_is_written_again(tmp_path: Path) -> None:
    records = [TOKEN, SENTENCE, LATENT, OLD_TOKEN, OLD_SENTENCE]
    events = read_events(written(tmp_path, *records))
    assert [event.kind for event in events] == [
        "pivotal_token",
        "thought_anchor",
        "latent_metatoken",
        "pivotal_token",
        "thought_anchor",
    ]
    assert [event.label for event in events] == [" Wait", "Wait.", " Wait", " x", "Thus x."]
    assert [event.position for event in events] == [73, 5, -2, None, 3]
    assert [event.token for event in events] == [13824, 13824, 13824, 7, None]
    effects = [event.effect for event in events]
    assert effects == [pytest.approx(0.32), pytest.approx(0.32), None, pytest.approx(-0.4), pytest.approx(0.5)]
    assert events[4].model == "unknown"
    write_events(events, tmp_path / "again.jsonl")
    assert [json.loads(line) for line in (tmp_path / "again.jsonl").read_text().splitlines()] == records


def test_ours_is_an_event_of_theirs(tmp_path: Path) -> None:
    """Fields that their reader takes from a record, with the values that their own writer gives them."""
    event = token_event(
        model=TOKEN["model_id"],
        query=TOKEN["query"],
        context=TOKEN["context"],
        label=TOKEN["label"],
        token=13824,
        position=73,
        before=0.35,
        after=0.67,
        question="12",
        task="math",
        details={"interval": [0.2, 0.4]},
    )
    write_events([event], tmp_path / "events.jsonl")
    assert read_events(tmp_path / "events.jsonl") == [event]
    record = event.record
    # sha1 of model, query, context and label, joined by the unit separator, as their event ids are made.
    assert record["event_id"] == "token_evt_a78bbf132ffd"
    for name in ("event_type", "granularity", "visibility", "position", "token_id", "is_positive", "search_method"):
        assert record[name] == TOKEN[name]
    assert record["score"] == pytest.approx(0.32)
    assert record["metadata"]["pivot_token"] == " Wait"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ("{", r"events.jsonl:2: not JSON"),
        ([1], r"events.jsonl:2: not an object"),
        ({"a": 1}, r"events.jsonl:2: no event_type, pivot_token or sentence"),
        (TOKEN | {"event_type": "x"}, r"event_type 'x': expected one of pivotal_token"),
        (TOKEN | {"granularity": "sentence"}, r"granularity 'sentence' of an event of type pivotal_token"),
        (TOKEN | {"prob_after": 1.5}, r"prob_after=1\.5: expected a probability"),
        (TOKEN | {"prob_after": True}, r"prob_after=True: expected a probability"),
        (TOKEN | {"prob_before": None}, r"prob_before is missing: an effect needs both"),
        (TOKEN | {"position": "73"}, r"position='73': expected a whole number"),
        (TOKEN | {"label": None}, r"label=None: expected a text"),
        (OLD_SENTENCE | {"prob_with_sentence": "high"}, r"prob_with_sentence='high': expected a probability"),
    ],
)
def test_a_damaged_event_is_one_error_with_file_line_and_field(record: Any, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, TOKEN, record)
    if record == "{":
        path.write_text(json.dumps(TOKEN) + "\n{\n")
    with pytest.raises(InputError, match=message):
        read_events(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file"):
        read_events(tmp_path / "none")
