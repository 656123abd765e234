"""Columns of records in every form that files give, one error for a wrong one, and templates that search no value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from megaphi.conversation import to_plain
from megaphi.errors import InputError
from megaphi.evaluation.task import Item
from megaphi.evaluation.tasks.columns import item_name, label_column, text_column, texts_column
from megaphi.evaluation.tasks.wording import chosen_shots, conversation, filled


@pytest.mark.parametrize("value", [["a", "b"], ("a", "b"), '["a", "b"]', np.array(["a", "b"], dtype=object)])
def test_a_list_of_texts_comes_in_four_forms(value: Any) -> None:
    assert texts_column({"choices": value}, "options|choices") == ("a", "b")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({}, "column 'options or choices' is missing"),
        ({"options": None}, "is missing: the record has options"),
        ({"choices": "a, b"}, "column 'choices' must be a list of texts, not 'a, b'"),
        ({"choices": [1, 2]}, "not a list of 2"),
        ({"choices": []}, "not a list of 0"),
        ({"choices": {"text": ["a"]}}, "not an object with text"),
        ({"choices": "[" * 100_000}, "must be a list of texts"),
    ],
)
def test_a_wrong_list_is_named(record: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match="column") as caught:
        texts_column(record, "options|choices")
    assert said in str(caught.value)


def test_texts_and_labels_say_what_is_wrong() -> None:
    assert text_column({"problem": None, "question": "Why?"}, "problem|question") == "Why?"
    assert label_column({"level": 5}, "level") == "5"
    assert label_column({}, "level") == ""
    for record in ({"question": " "}, {"question": 3}):
        with pytest.raises(InputError, match="column 'question' must be a text that is not blank"):
            text_column(record, "question")
    for value in (True, 0.5, ["x"]):
        with pytest.raises(InputError, match="column 'level' must be a text or a whole number"):
            label_column({"level": value}, "level")


def test_a_name_is_the_datasets_id_or_a_hash_of_the_texts() -> None:
    assert item_name({"id": "q7"}, "id", "Why?") == "q7"
    assert item_name({}, "id", "Why?") == item_name({}, "id", "Why?") != item_name({}, "id", "Why?", "")
    assert len(item_name({}, "id", "\ud800")) == 16


def test_what_is_put_into_a_template_is_not_searched() -> None:
    template = r"{question} \frac{1}{2} {options} {else}"
    assert filled(template, question="{options}", options="{question}") == r"{options} \frac{1}{2} {question} {else}"


def test_a_template_without_the_question_is_refused() -> None:
    assert filled("{question}", question="Why?", options="unused") == "Why?"
    with pytest.raises(InputError, match=r"a template has no \{question\}, so it would not ask about it: 'Answer this"):
        filled("Answer this: {Question}", question="Why?")


def test_a_system_message_is_there_only_if_it_has_words() -> None:
    assert to_plain(conversation({}, "Hi")) == [{"role": "user", "content": "Hi"}]
    assert [one["role"] for one in to_plain(conversation({"system": "Be brief."}, "Hi"))] == ["system", "user"]


def item(name: str, group: str = "") -> Item:
    return Item(name=name, question=f"question {name}", gold="", key=None, group=group)


def test_worked_examples_are_the_first_of_the_group_and_never_the_item() -> None:
    shots = [item("1", "a"), item("2", "b"), item("3", "a"), item("4", "a")]
    asked = item("9", "a")
    assert [one.name for one in chosen_shots("t", 2, asked, shots, same_group=True)] == ["1", "3"]
    assert [one.name for one in chosen_shots("t", 2, asked, shots, same_group=False)] == ["1", "2"]
    with pytest.raises(InputError, match=r"t shows 4 worked examples of 'a', the shots files .* have 3"):
        chosen_shots("t", 4, asked, shots, same_group=True)
    with pytest.raises(InputError, match="the worked example '3' is the evaluated item '3' itself"):
        chosen_shots("t", 2, item("3", "a"), shots, same_group=True)
