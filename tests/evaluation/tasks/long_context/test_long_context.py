"""Long-context tasks: lengths kept to one unit, one needle, even places, equal by seed, right and random models."""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from megaphi.conversation import Conversation
from megaphi.errors import InputError
from megaphi.evaluation.data_files import make_manifest, read_items, read_manifest
from megaphi.evaluation.task import ArrangedTask, Continue, Finish, GeneratedTask, GradingTools, Item, TaskResponse
from megaphi.evaluation.tasks import find_task
from megaphi.evaluation.tasks.long_context.filling import FilledContext
from megaphi.evaluation.tasks.long_context.metrics import is_found
from megaphi.evaluation.tasks.long_context.published import PHI4_LONG_CONTEXT
from megaphi.evaluation.tasks.long_context.tasks import CHAT_TASKS, TASKS
from megaphi.grading.grader import Grader
from megaphi.tokenizer.json_tokenizer import JsonTokenizer
from megaphi.tokenizer.open_tokenizer import open_path
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.evaluation.tasks.guided.scripted_judge import judge_by
from tests.evaluation.tasks.long_context import long_records

TOOLS = GradingTools(grader=Grader(processes=1))
TOKENIZER = load_tokenizer()
RECORDS = {
    "recall": [],
    "rag": long_records.rag_records(20),
    "rerank": long_records.rerank_records(20),
    "icl": long_records.labelled_records(30, seed=1),
    "long_qa": long_records.document_records(20),
    "long_summary": long_records.summary_records(6),
}
EXAMPLES = long_records.labelled_records(400, seed=2)


def generated(name: str, tokens: int, *, count: int = 5, seed: int = 0, tokenizer: Any = TOKENIZER) -> list[Item]:
    task = find_task(name)
    assert isinstance(task, GeneratedTask)
    assert isinstance(task, ArrangedTask)
    kind = kind_of(name)
    items = task.arranged([task.read(record) for record in RECORDS[kind]])
    shots = [task.read(record) for record in EXAMPLES] if kind == "icl" else []
    return task.generate(items, shots, tokens=tokens, count=count, seed=seed, tokenizer=tokenizer)


def kind_of(name: str) -> str:
    for end in ("_base", "_small", "_judged"):
        name = name.removesuffix(end)
    return name


made_once = cache(generated)


def text_of(item: Item) -> str:
    prompt = item.key.prompt
    return prompt.messages[-1].content if isinstance(prompt, Conversation) else prompt


def grades_of(name: str, items: Sequence[Item], answers: Sequence[str], finish: Finish = "stop"):
    task = find_task(name)
    responses = [
        TaskResponse(item=item, asked=task.ask(item, [], frozenset()), text=text, finish=finish)
        for item, text in zip(items, answers, strict=True)
    ]
    return task.grade(responses, frozenset(), TOOLS)


def scores_of(name: str, items: Sequence[Item], answers: Sequence[str]) -> list[float]:
    score = find_task(name).scores[0]
    return [grade.scores[score] for grade in grades_of(name, items, answers)]


def measured(item: Item, tokenizer: Any) -> int:
    """Tokens of a prompt, counted here."""
    prompt = item.key.prompt
    if isinstance(prompt, str):
        return len([*tokenizer.text_start, *tokenizer.encode(prompt)])
    return len(tokenizer.render(prompt, add_generation_prompt=True).ids)


@pytest.fixture(scope="module")
def with_bos(tmp_path_factory: pytest.TempPathFactory) -> JsonTokenizer:
    """A tokenizer with a token before each text and a long chat template."""
    from tests.tokenizer.own_tokenizer import LLAMA3, write_tokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, template=LLAMA3, bos=True)
    found = open_path(str(folder))
    assert isinstance(found, JsonTokenizer)
    return found


LARGEST_UNIT = {"recall": 60, "rag": 120, "rerank": 110, "icl": 50, "long_qa": 10, "long_summary": 10}


@pytest.mark.parametrize("name", [task.name for task in TASKS])
@pytest.mark.parametrize("tokens", [1_024, 2_500])
def test_a_prompt_with_its_answer_fills_the_length_to_one_unit(name: str, tokens: int) -> None:
    task = find_task(name)
    for item in made_once(name, tokens):
        asked = task.ask(item, [], frozenset())
        assert isinstance(asked, Continue)
        whole = measured(item, TOKENIZER) + asked.rules.max_tokens
        assert tokens - LARGEST_UNIT[kind_of(name)] < whole <= tokens
        assert item.key.facts["tokens"] == measured(item, TOKENIZER)
        assert item.group == str(tokens)


@pytest.mark.parametrize("name", ["recall", "recall_base", "rag", "icl_base"])
def test_control_tokens_of_the_models_own_format_are_counted(name: str, with_bos: JsonTokenizer) -> None:
    task, tokens = find_task(name), 2_000
    for item in generated(name, tokens, count=2, tokenizer=with_bos):
        asked = task.ask(item, [], frozenset())
        assert isinstance(asked, Continue)
        assert item.key.facts["tokens"] == measured(item, with_bos)
        left = tokens - measured(item, with_bos) - asked.rules.max_tokens
        assert 0 <= left < 420  # a passage or pair in this tokenizer of few tokens


@settings(max_examples=15, deadline=None)
@given(st.integers(300, 3_000), st.integers(0, 10**6))
def test_the_length_is_never_exceeded_and_no_pair_more_fits(tokens: int, seed: int) -> None:
    (item,) = generated("recall", tokens, count=1, seed=seed)
    longest = 2 * 36 + 8  # characters, and so tokens, of a further pair at most
    assert tokens - longest < measured(item, TOKENIZER) + 100 <= tokens


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_items_are_equal_by_seed_and_differ_by_it(name: str) -> None:
    first, again, other = (generated(name, 1_024, count=2, seed=seed) for seed in (7, 7, 8))
    assert first == again
    if not name.startswith("long_summary"):  # a document cut at its end is the same whatever is drawn
        assert [text_of(item) for item in first] != [text_of(item) for item in other]


@pytest.mark.parametrize("name", ["recall", "recall_base", "recall_small_base"])
def test_recall_has_each_key_and_value_once(name: str) -> None:
    for item in made_once(name, 2_500):
        text = text_of(item)
        pairs = re.findall(r'^ "([^"]+)": "([^"]+)"', text, flags=re.MULTILINE)
        spelled = [*(key for key, _ in pairs), *(value for _, value in pairs)]
        assert len(set(spelled)) == len(spelled) == 2 * item.key.facts["units"]
        key = next(key for key, value in pairs if value == item.gold)
        assert (text.count(key), text.count(item.gold)) == (2, 1)
    json.loads(text_of(made_once("recall", 1_024)[0]).split("\n\n")[0])


def test_places_of_the_needle_are_even() -> None:
    """One in each slice of the context, so also over all; and not in the order of the items."""
    items = generated("recall_small_base", 700, count=60)
    places = []
    for item in items:
        values = re.findall(r'^ "\d+": "(\d+)"', text_of(item), flags=re.MULTILINE)
        places.append(values.index(item.gold) / (len(values) - 1))
    assert kstest(places, "uniform").pvalue > 0.2
    assert min(places) <= 0.05
    assert max(places) >= 0.95
    assert 10 < sum(left < right for left, right in pairwise(places)) < 50
    depths = [item.key.facts["depth"] for item in generated("rag", 1_024, count=20)]
    assert Counter(int(20 * depth) for depth in depths) == dict.fromkeys(range(20), 1)


def test_rag_has_one_passage_with_the_answer_and_none_twice() -> None:
    for item in generated("rag", 4_096, count=20):
        passages = re.findall(r"^Passage.*", text_of(item), flags=re.MULTILINE)
        assert len(passages) == len(set(passages)) == item.key.facts["units"] > 24
        assert sum(is_found(item.key.answers, passage) for passage in passages) == 1


def test_rerank_shows_every_relevant_passage_at_a_random_place_under_a_name_of_its_own() -> None:
    places = []
    for item in generated("rerank", 2_000, count=20):
        names = re.findall(r"^\[(ID\d+)\]", text_of(item), flags=re.MULTILINE)
        assert sorted(names) == sorted(item.key.relevance)
        assert sorted(item.key.relevance.values())[-4:] == [0, 1, 2, 3]
        places += [names.index(name) / len(names) for name, grade in item.key.relevance.items() if grade]
    assert kstest(places, "uniform").pvalue > 0.05


def test_many_shot_examples_come_in_rounds_and_numbers_mean_something_else_in_each_item() -> None:
    meanings = set()
    for item in made_once("icl", 2_500):
        label_of = {record["text"]: record["label"] for record in EXAMPLES}
        shown = re.findall(r"^(.+)\nlabel: (\d)$", text_of(item), flags=re.MULTILINE)
        shown = [(text, number) for text, number in shown if text in label_of]
        assert len(dict(shown)) == len(shown) == item.key.facts["units"]
        assert len({(label_of[text], number) for text, number in shown}) == 6
        assert all(len({number for _, number in shown[at : at + 6]}) == 6 for at in range(0, len(shown) - 5, 6))
        meaning = {label_of[text]: number for text, number in shown}
        assert item.key.answers == (meaning[item.gold],)
        meanings.add(tuple(sorted(meaning.items())))
    assert len(meanings) > 1


def test_the_window_of_a_document_holds_its_evidence_at_even_places() -> None:
    items = generated("long_qa", 1_024, count=20)
    assert all(text_of(item).count(f"was {item.gold}") == 1 for item in items)
    depths = [item.key.facts["depth"] for item in items]
    assert min(depths) < 0.2
    assert max(depths) > 0.8


RIGHT = {
    "recall": lambda item: item.gold,
    "rag": lambda item: f"Answer: {item.gold}.",
    "rerank": lambda item: "Ranking: " + " > ".join(sorted(item.key.relevance, key=item.key.relevance.get)[::-1]),
    "icl": lambda item: f"label: {item.key.answers[0]}",
    "long_qa": lambda item: item.gold,
    "long_summary": lambda item: item.gold,
}


@pytest.mark.parametrize("name", [task.name for task in TASKS if not task.criteria])
def test_a_model_that_answers_right_gets_one_and_a_silent_one_nothing(name: str) -> None:
    items = made_once(name, 1_024)
    right = RIGHT[kind_of(name)]
    assert scores_of(name, items, [right(item) for item in items]) == [1.0] * len(items)
    assert scores_of(name, items, [""] * len(items)) == [0.0] * len(items)
    assert {grade.problem for grade in grades_of(name, items, [""] * len(items))} == {"no answer extracted"}
    assert {grade.problem for grade in grades_of(name, items, [""] * len(items), "length")} == {"truncated"}


def test_a_model_that_guesses_gets_chance() -> None:
    """Recall: one in as many as there are pairs. Labels: one in six. Ranking: the mean gain at every rank."""
    draw = random.Random(0)
    pairs = made_once("recall_small_base", 1_024)
    values = [re.findall(r': "(\d+)"', text_of(item)) for item in pairs]
    guesses = [scores_of("recall_small_base", pairs, [draw.choice(some) for some in values]) for _ in range(200)]
    expected = sum(1 / len(some) for some in values) / len(values)
    assert _mean(guesses) == pytest.approx(expected, abs=4 * (expected / 1_000) ** 0.5)
    labels = made_once("icl", 1_024)
    guesses = [scores_of("icl", labels, [str(draw.randrange(6)) for _ in labels]) for _ in range(200)]
    assert _mean(guesses) == pytest.approx(1 / 6, abs=4 * (5 / 36_000) ** 0.5)
    (item,) = made_once("rerank", 2_500)[:1]
    names = list(item.key.relevance)
    guesses = [scores_of("rerank", [item], [" > ".join(draw.sample(names, len(names)))]) for _ in range(2_000)]
    discounts = [1 / math.log2(rank + 1) for rank in range(1, 11)]
    best = sum(grade * discount for grade, discount in zip((3, 2, 1), discounts, strict=False))
    assert _mean(guesses) == pytest.approx(6 / len(names) * sum(discounts) / best, abs=0.03)


def _mean(guesses: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, guesses)) / sum(map(len, guesses))


@pytest.mark.parametrize(
    ("name", "answer", "expected"),
    [
        ("recall", '"{gold}"', 1),
        ("recall", "Value: `{gold}`.\nThat is all.", 1),
        ("recall", '\n\n"value": "{gold}",', 1),
        ("recall", "The value is {gold}", 0),
        ("recall", "{gold}0", 0),
        ("icl", "label: {answer}", 1),
        ("icl", "Label: 9, no, label: **{answer}**", 1),
        ("icl", "{answer}\n\nanother text\nlabel", 1),
        ("icl", "9{answer}", 0),
        ("icl", "none", 0),
        ("rag", "It was {gold}, I think", 1),
    ],
)
def test_answers_in_other_forms(name: str, answer: str, expected: int) -> None:
    (item,) = made_once(name, 1_024)[:1]
    text = answer.replace("{gold}", item.gold).replace("{answer}", item.key.answers[0])
    assert scores_of(name, [item], [text]) == [expected]


def test_an_id_counts_once_and_only_if_it_is_one() -> None:
    (item,) = made_once("rerank", 1_024)[:1]
    best, *others = sorted(item.key.relevance, key=item.key.relevance.__getitem__)[::-1]
    (grade,) = grades_of("rerank", [item], [f"ID1 first. Ranking: {best} > ID0 > {best} > {others[0]}"])
    assert grade.extracted == f"{best} > {others[0]}"


def wrong(name: str, records: list[dict[str, Any]], shots: list[dict[str, Any]], tokens: int = 1_024) -> str:
    with pytest.raises(InputError) as caught:
        read_and_generate(name, records, shots, tokens)
    return str(caught.value)


def read_and_generate(name: str, records: list[dict[str, Any]], shots: list[dict[str, Any]], tokens: int) -> list[Item]:
    task = find_task(name)
    assert isinstance(task, GeneratedTask)
    items, examples = [task.read(one) for one in records], [task.read(one) for one in shots]
    return task.generate(items, examples, tokens=tokens, count=10, seed=0, tokenizer=TOKENIZER)


def test_what_cannot_fill_a_context_is_refused_by_name() -> None:
    rag, rerank = RECORDS["rag"], RECORDS["rerank"]
    assert "90 tokens are too short: the smallest prompt has" in wrong("recall", [], [], 90)
    assert "too little to fill 16384 tokens" in wrong("rag", rag[:3], [], 16_384)
    assert "no passage of ctxs contains an answer" in wrong("rag", [{**rag[0], "answers": ["elsewhere"]}], [])
    assert "no passage of positive_ctxs contains" in wrong("rag", [{**rag[0], "positive_ctxs": [{"text": "x"}]}], [])
    assert "must be a list of objects with a text" in wrong("rag", [{**rag[0], "ctxs": "none"}], [])
    assert "passage 2 must be an object" in wrong("rag", [{**rag[0], "ctxs": [{"text": "x"}, {"text": " "}]}], [])
    assert "no passage of ctxs has a label above 0" in wrong("rerank", rag[:1], [])
    assert "a whole number as label" in wrong("rerank", [{"query": "q", "ctxs": [{"text": "x", "label": 0.5}]}], [])
    assert "too little to fill 32768 tokens" in wrong("rerank", rerank, [], 32_768)
    items = RECORDS["icl"]
    assert "is the evaluated item" in wrong("icl", items, [*EXAMPLES, items[3]])
    assert "has two labels, 'label 0' and 'x'" in wrong("icl", items, [*EXAMPLES, {**EXAMPLES[0], "label": "x"}])
    assert "has the label 'label 1' of" in wrong("icl", items, EXAMPLES[::2])
    assert "too little to fill 32768 tokens" in wrong("icl", items, EXAMPLES, 32_768)
    assert "examples of two labels" in wrong("icl", items, [])
    short = [*RECORDS["long_qa"][:2], *long_records.document_records(1, length=30)]
    assert "1 of 3 documents are too short to fill 1024 tokens" in wrong("long_qa", short, [])
    assert "must stand in the document" in wrong("long_qa", [{**short[0], "evidence": "nowhere"}], [])
    assert "makes its items and reads none" in wrong("recall", [{"question": "x"}], [])
    with pytest.raises(InputError, match="give --lengths"):
        find_task("rag").ask(find_task("rag").read(rag[0]), [], frozenset())


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_a_template_without_a_place_for_what_it_is_about_is_refused(name: str) -> None:
    task: Any = find_task(name)
    form = "chat" if task.chat else "text"
    for value in re.findall(r"\{(\w+)\}", task.wording[form]):
        changed = replace(task, wording={**task.wording, form: task.wording[form].replace(f"{{{value}}}", "")})
        kind = kind_of(name)
        items = [task.read(record) for record in RECORDS[kind][:6]]
        shots = [task.read(record) for record in EXAMPLES] if kind == "icl" else []
        with pytest.raises(InputError, match=rf"task {name}: the template '{form}' has no place for \{{{value}\}}"):
            changed.generate(items, shots, tokens=1_024, count=1, seed=0, tokenizer=TOKENIZER)


@pytest.mark.parametrize("name", ["long_qa_judged", "long_summary_judged"])
def test_a_judge_sees_the_right_answer_and_not_the_document(name: str) -> None:
    task: Any = find_task(name)
    assert task.judge_requests(frozenset())
    judge = judge_by(lambda criterion, most, number: most if criterion != task.criteria[0].name else number)
    items = made_once(name, 1_024)[:2]
    responses = [TaskResponse(item=item, asked=task.ask(item, [], frozenset()), text="So it is.") for item in items]
    tools = GradingTools(grader=TOOLS.grader, judge=judge)
    total, first = sum(one.points for one in task.criteria), task.criteria[0].points
    for item, grade in zip(items, task.grade(responses, frozenset(), tools), strict=True):
        assert grade.scores["score"] == pytest.approx((total - first + 0.5) / total)
        assert grade.details["tokens"] == item.key.facts["tokens"]
        assert grade.details["criteria"][0]["points"] == [0, 1]
        asked = [prompt.messages[-1].content for prompt, _ in judge.asked if item.gold in prompt.messages[-1].content]
        assert len(asked) >= 2
        assert all("So it is." in text and len(text) < 4_000 for text in asked)
    empty = replace(responses[0], text="")
    assert task.grade([empty], frozenset(), tools)[0].problem == "no answer extracted"


@pytest.mark.parametrize("name", [name for name in RECORDS if name != "recall"])
def test_items_come_from_files_by_a_manifest(name: str, tmp_path: Path) -> None:
    task: Any = find_task(name)
    folder = tmp_path / name
    folder.mkdir()
    for file, records in (("items", RECORDS[name]), ("shots", EXAMPLES if name == "icl" else [])):
        if records:
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    files = read_manifest(make_manifest(tmp_path, [name]))[name]
    found = read_items(task, files)
    items = task.generate(found.items, found.shots, tokens=1_024, count=5, seed=0, tokenizer=TOKENIZER)
    assert items == made_once(name, 1_024)


def test_items_of_one_record_share_a_cluster_at_all_lengths() -> None:
    short, long = made_once("rag", 1_024), made_once("rag", 2_500)
    assert [item.cluster for item in short] == [item.cluster for item in long]
    assert len({item.cluster for item in short}) == len(short)
    assert not {item.name for item in short} & {item.name for item in long}
    assert all(isinstance(item.key, FilledContext) for item in short)


def test_chance_is_what_the_page_says() -> None:
    """docs/long_context.md: one in about 164 pairs, and about 0.10 for a random order of 60 passages."""
    (item,) = generated("recall", 8_192, count=1)
    assert abs(item.key.facts["units"] - 164) <= 2
    discounts = [1 / math.log2(rank + 1) for rank in range(1, 11)]
    best = sum(grade * discount for grade, discount in zip((3, 2, 1), discounts, strict=False))
    assert 6 / 60 * sum(discounts) / best == pytest.approx(0.10, abs=0.005)


def test_made_objects_stand_alone() -> None:
    items = [*made_once("recall", 1_024), *made_once("recall", 2_500)]
    assert len({item.cluster for item in items}) == len(items)


def test_published_scores_are_of_tasks_that_exist() -> None:
    assert set(PHI4_LONG_CONTEXT) == {task.name for task in CHAT_TASKS}
