"""Hallucination data by Phi-4's rules: who is usually right, which records that makes, pairs of five tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megaphi.conversation import Conversation, Message
from megaphi.data.packed.conversations import read_conversations
from megaphi.data.packed.preference_pairs import read_pairs
from megaphi.errors import InputError
from megaphi.pivotal.preference.hallucination import (
    REFUSAL,
    HallucinationRun,
    HallucinationSettings,
    answer_questions,
    dpo_records,
    sft_records,
)
from megaphi.pivotal.preference.hallucination_report import write_hallucination
from megaphi.pivotal.preference.prompts import AskedPrompt
from megaphi.pivotal.preference.trivia import read_texts
from megaphi.sampling import Sampling
from tests.pivotal.preference.scripted import Say, Scripted, as_json, opener
from tests.pivotal.preference.scripted import tokenizer as phi4_tokenizer

CITIES = ("Paris", "Rome", "Oslo", "Lima", "Bern")
RIGHT_OF_EIGHT = (8, 0, 4, 0, 7)
"""Right answers to each question; those to the fourth are refusals, half of the third's wrong ones too."""
PROMPTS = [
    AskedPrompt(name=city, conversation=Conversation((Message("user", f"Which capital is number {number}?"),)))
    for number, city in enumerate(CITIES)
]
KNOWN = [(city,) for city in CITIES]
NO_IDEA = "I don't know which capital that is."


def answering(prompt: Conversation, sample: int) -> str:
    number = int(prompt.messages[-1].content[-2])
    if sample < RIGHT_OF_EIGHT[number]:
        return f"It is {CITIES[number]}."
    return NO_IDEA if number == 3 or (number == 2 and sample % 2) else f"That is surely Atlantis, number {sample}."


def writing(prompt: Conversation, _: int) -> str:
    number = next(number for number in range(5) if f"number {number}?" in prompt.messages[-1].content)
    return as_json(
        {
            "answer": "The capital is Atlantis." if number == 4 else f"The capital is {CITIES[number]}.",
            "refusal": "I am not certain, so I had better not guess.",
            "bogus": f"Which capital is number {number + 900}?",
            "bogus_refusal": "I know of no capital with such a number.",
        }
    )


def grade(items: Any) -> list[Any]:
    return [("right" if CITIES[number] in text else "wrong", "by the city") for number, text in items]


SETTINGS = HallucinationSettings(model="m", writer="w")


def made(say: Say = writing) -> HallucinationRun:
    samplers = opener(m=Scripted(answering), w=Scripted(say))
    return answer_questions(PROMPTS, KNOWN, SETTINGS, samplers, grade=grade)


def test_usually_has_an_interval() -> None:
    run = made()
    assert [item.usually(0.95) for item in run.questions] == ["right", "wrong", "undecided", "wrong", "right"]
    assert [item.count("refused") for item in run.questions] == [0, 0, 2, 8, 0]
    assert [item.usually(0.99) for item in run.questions][4] == "undecided"


def test_sft_records_are_phi4s() -> None:
    run = made()
    found = {(record["question"], record["kind"]): record["messages"] for record in sft_records(run, 0.95)}
    assert set(found) == {
        *((city, "bogus") for city in CITIES),
        ("Paris", "answer"),
        ("Bern", "answer"),
        ("Rome", "refusal"),
        ("Lima", "refusal"),
    }
    assert found["Paris", "answer"][-1] == {"role": "assistant", "content": "The capital is Paris."}
    # The writer was wrong by the key, so what the model itself had right is learnt.
    assert found["Bern", "answer"][-1]["content"] == "It is Bern."
    assert found["Rome", "refusal"][-1]["content"].startswith("I am not certain")
    assert found["Oslo", "bogus"] == [
        {"role": "user", "content": "Which capital is number 902?"},
        {"role": "assistant", "content": "I know of no capital with such a number."},
    ]
    assert run.left_out.counts["neither usually right nor usually wrong: no SFT record of the question"] == 1
    assert run.left_out.counts["the writer's answer is not right by the key"] == 1


def test_pairs_are_five_tokens_and_the_stage_reads_them(tmp_path: Path) -> None:
    tokenizer = phi4_tokenizer()
    run = made()
    records = dpo_records(run, tokenizer)
    assert [(record["question"], record["kind"]) for record in records] == [
        ("Paris", "answer over refusal"),
        ("Rome", "refusal over wrong answer"),
        ("Oslo", "answer over refusal"),
        ("Oslo", "refusal over wrong answer"),
        ("Bern", "answer over refusal"),
        ("Bern", "refusal over wrong answer"),
    ]
    for record in records:
        assert len(record["accepted"]) == len(record["rejected"]) == 5
        for side in ("accepted", "rejected"):
            assert f"{record[f'{side}_text']}<|im_end|>".startswith(tokenizer.decode(record[side]))
        assert tokenizer.decode(record["prompt"]).endswith("?<|im_end|><|im_start|>assistant<|im_sep|>")
    write_hallucination(tmp_path, run, SETTINGS, tokenizer)
    read, report = read_pairs(
        [str(tmp_path / "dpo.jsonl")],
        tokenizer,
        sequence_length=100,
        append_eos=True,
        max_completion_tokens=None,
        too_long="error",
    )
    assert (len(read), report.skipped) == (6, {})
    assert {len(side) for pair in read for side in (pair.chosen, pair.rejected)} == {5}
    rows, _ = read_conversations(
        [str(tmp_path / "sft.jsonl")], tokenizer, train_on="assistant", sequence_length=100, too_long="error"
    )
    assert len(rows) == 9


def test_a_short_answer_keeps_its_end() -> None:
    tokenizer = phi4_tokenizer()
    run = made()
    short = [item for item in run.questions if item.prompt.name == "Paris"]
    (first, verdict), *_ = short[0].answers
    assert verdict == "right"
    object.__setattr__(first, "text", "Paris")
    (record,) = dpo_records(HallucinationRun(questions=short), tokenizer)
    assert record["accepted"] == [*tokenizer.encode("Paris"), tokenizer.message_end]


def test_sides_that_begin_alike_are_left_out_and_counted() -> None:
    def alike(prompt: Conversation, _: int) -> str:
        return writing(prompt, 0).replace("I am not certain, so I had", "That is surely Atlantis, or")

    run = made(say=alike)
    kinds = [record["kind"] for record in dpo_records(run, phi4_tokenizer())]
    assert kinds == ["answer over refusal"] * 3
    assert run.left_out.counts["no pair: both sides begin with the same 5 tokens"] == 3


def test_a_checker_decides_where_there_are_no_keys() -> None:
    def checking(prompt: Conversation, _: int) -> str:
        text = prompt.messages[-1].content
        known = next(city for city in CITIES if f"begin right answer ---\nThe capital is {city}" in text)
        answer = text.split("begin answer to check ---\n")[1].split("\n---")[0]
        verdict = "right" if known in answer else "refused" if "know" in answer else "wrong"
        return as_json({"reason": "as asked", "verdict": verdict}) if known != "Oslo" else "maybe"

    def sure(prompt: Conversation, _: int) -> str:
        return writing(prompt, 0).replace("The capital is Atlantis.", "The capital is Bern.")

    settings = HallucinationSettings(model="m", writer="w", checker="c", attempts=2)
    samplers = opener(m=Scripted(answering), w=Scripted(sure), c=Scripted(checking))
    run = answer_questions(PROMPTS, [()] * 5, settings, samplers)
    assert [item.usually(0.95) for item in run.questions] == ["right", "wrong", "undecided", "wrong", "right"]
    assert run.left_out.counts["the checker gave no verdict that can be read"] == 8
    assert run.questions[2].count("unclear") == 8


def test_a_writer_that_fails_on_a_question_loses_that_one() -> None:
    run = made(say=lambda prompt, _: "no" if "number 1?" in prompt.messages[-1].content else writing(prompt, 0))
    assert ("the writer gave no texts that can be read", "Rome") in [item[:2] for item in run.left_out.items]
    assert {record["question"] for record in sft_records(run, 0.95)} == set(CITIES) - {"Rome"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"bogus": " which  capital is NUMBER 1? "}, "'bogus' is the question itself"),
        ({"refusal": "The answer"}, "'refusal' is the answer"),
        ({"answer": " "}, "'answer' must be a text that is not empty"),
        ({"bogus_refusal": 5}, "'bogus_refusal' must be a text"),
        ({"answer": "x" * 5_000}, "'answer' is longer than"),
    ],
)
def test_texts_that_teach_nothing_are_refused(changed: dict[str, Any], message: str) -> None:
    texts = {"answer": "The answer", "refusal": "No idea", "bogus": "Another?", "bogus_refusal": "None"}
    read_texts(texts, question="Which capital is number 1?")
    with pytest.raises(InputError, match=message):
        read_texts(texts | changed, question="Which capital is number 1?")


def test_too_few_answers_for_any_certainty_are_refused() -> None:
    with pytest.raises(InputError, match="--samples 3: not even that many right answers"):
        HallucinationSettings(model="m", writer="w", samples=3).check()
    with pytest.raises(InputError, match="--temperature 0"):
        HallucinationSettings(model="m", writer="w", rules=Sampling()).check()


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        (NO_IDEA, True),
        ("I'm not sure about that.", True),
        ("I do not really know.", True),
        ("I honestly don’t know.", True),
        ("We are not entirely certain.", True),
        ("I'm unable to say.", True),
        ("Sorry, I cannot answer that.", True),
        ("I have no information about it.", True),
        ("It is Paris.", False),
        ("You know it: Paris.", False),
        ("The man I know is Paris.", False),
    ],
)
def test_refusals_in_english_are_known(text: str, refuses: bool) -> None:
    assert (REFUSAL.search(text) is not None) == refuses
