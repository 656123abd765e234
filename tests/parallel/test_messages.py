"""Messages between ranks: what is sent comes back, and what is no message of its type is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.data.order.ledger import Cursor, DataContinuation, DatasetRecord, Origin, SourceRecord
from megaphi.generation.decoding.driver import _Change, _ControlMessage
from megaphi.generation.decoding.generate import Completion
from megaphi.generation.decoding.interface import Request, Score, StepOutput, Usage
from megaphi.parallel.messages import decoded, encoded
from megaphi.sampling import Sampling

CURSOR = Cursor(block_tokens=8, blocks=3, first_epoch=1, tokens=5, drawn=2)
SOURCE = SourceRecord(
    name="web",
    datasets=(DatasetRecord(name="a", tokens=9, documents=None, fingerprint="f"),),
    at_origin=CURSOR,
    now=CURSOR,
)
SCORE = Score(-1.5, 3, 0.25, ((1, -0.5),), math.inf, (-2.0,))


def copy(message: Any, kind: Any) -> Any:
    return decoded(encoded(message), kind)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (None, str | None),
        ("ä\ud800", str | None),
        (["/a", "/b"], list[str]),
        (("host", {"a": "1"}), tuple[str, dict[str, str]]),
        ({3: 1.0}, dict[int, float]),
        (
            DataContinuation(
                origin=Origin(step=2, sample=8, tokens=64), cursors={"web": CURSOR}, former=(SOURCE,), notes=("a",)
            ),
            DataContinuation,
        ),
        (
            _ControlMessage(
                (
                    Request(
                        name="1",
                        prompt=(1, 2),
                        sampling=Sampling(temperature=0.7, logit_bias=((3, -1.5),), stop=("a",)),
                        stop_tokens=frozenset({7, 5}),
                    ),
                    _Change("2", "suspend"),
                ),
                runs_step=True,
            ),
            _ControlMessage,
        ),
        (
            ([StepOutput("1", 5, -0.1, ((5, -0.1),), "stop", 7, (SCORE,)), StepOutput("2")], Usage(preemptions=1)),
            tuple[list[StepOutput], Usage],
        ),
        ({"1": Completion([1], [-0.5], [((1, -0.5),)], "length", None, (SCORE,))}, dict[str, Completion]),
    ],
)
def test_what_ranks_send_comes_back(message: Any, kind: Any) -> None:
    assert copy(message, kind) == message


@given(st.lists(st.floats(allow_nan=False, width=64)))
def test_floats_come_back_bit_for_bit(numbers: list[float]) -> None:
    found = copy(numbers, list[float])
    assert [number.hex() for number in found] == [number.hex() for number in numbers]


def test_no_number_comes_back_as_none() -> None:
    assert math.isnan(copy(Score(math.nan, 1, 0.0), Score).log_probability)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\x80\x04.", str),
        (b"[" * 100_000, str),
        (b'{"a": 1}', list[str]),
        (b"[1]", list[str]),
        (b"true", int),
        (b"[1, 2]", Origin),
        (b'["1", "maybe"]', tuple[str, bool]),
        (b"null", StepOutput),
        (b'"none"', StepOutput | None),
    ],
)
def test_what_is_no_message_of_its_type_is_refused(content: bytes, kind: Any) -> None:
    with pytest.raises(RuntimeError, match="a message of another rank is no "):
        decoded(content, kind)


def test_objects_without_fields_are_no_message() -> None:
    with pytest.raises(TypeError, match="object is no part of a message"):
        encoded([object()])
