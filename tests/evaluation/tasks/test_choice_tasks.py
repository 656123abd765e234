"""Multiple choice: records in every form of the hub, orders of options, prompts, and log-likelihoods as in lm-eval."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megaphi.conversation import Conversation, to_plain
from megaphi.errors import InputError
from megaphi.evaluation.task import (
    CORRECTED,
    PHI4,
    ArrangedTask,
    Choose,
    Continue,
    GradingTools,
    Item,
    LogLikelihood,
    TaskResponse,
    switches_on,
)
from megaphi.evaluation.tasks import find_task
from megaphi.grading.grader import Grader
from megaphi.grading.question import LETTERS

TOOLS = GradingTools(grader=Grader(processes=1))
QUESTION = "Which planet is the hottest?"
OPTIONS = ["Mercury", "Venus", "Earth", "Mars"]
MMLU = {"question": QUESTION, "subject": "astronomy", "choices": OPTIONS, "answer": 1}
ARC = {
    "id": "Mercury_7",
    "question": QUESTION,
    "choices": {"text": OPTIONS[:3], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
GPQA = {
    "Question": f"{QUESTION}\n",
    "Correct Answer": "Venus\n",
    "Incorrect Answer 1": " Mercury",
    "Incorrect Answer 2": "Earth",
    "Incorrect Answer 3": "Mars",
    "Record ID": "rec1",
    "High-level domain": "Physics",
    "Subdomain": "Astrophysics",
}


@pytest.mark.parametrize(
    "record",
    [
        MMLU,
        {**MMLU, "answer": "B"},
        {**MMLU, "answer": " b"},
        {**MMLU, "answer": "1"},
        {**MMLU, "answer": 1.0},
        {**MMLU, "answer": np.int64(1)},
        {**MMLU, "choices": np.array(OPTIONS, dtype=object)},
        {**MMLU, "choices": '["Mercury", "Venus", "Earth", "Mars"]'},
        {
            "Question": QUESTION,
            "Subject": "astronomy",
            "A": "Mercury",
            "B": "Venus",
            "C": "Earth",
            "D": "Mars",
            "Answer": "B",
        },
    ],
)
def test_all_forms_of_a_question_of_mmlu_are_one(record: dict[str, Any]) -> None:
    item = find_task("mmlu").read(record)
    assert item == find_task("mmlu").read(MMLU)
    assert (item.question, item.gold, item.group) == (QUESTION, "B) Venus", "stem/astronomy")
    assert item.key.options == tuple(OPTIONS)


@pytest.mark.parametrize("answer", ["Venus", " Venus ", "B", "b", 1, "1"])
def test_the_answer_of_an_exam_can_be_the_words_of_an_option(answer: Any) -> None:
    for name in ("exam", "exam_base", "exam_base_letters"):
        assert find_task(name).read({"question": QUESTION, "choices": OPTIONS, "answer": answer}).key.right == 1


def test_an_answer_that_can_mean_two_options_is_refused() -> None:
    task = find_task("exam")
    assert task.read({"question": "Magnesium?", "choices": ["Mn", "Mg"], "answer": "Mg"}).gold == "B) Mg"
    assert task.read({"question": "2 + 1?", "choices": ["1", "2", "3"], "answer": 2}).gold == "C) 3"
    for choices, answer in ((["3", "2", "1", "0"], "3"), (["B", "A"], "A")):
        with pytest.raises(
            InputError, match=r"column 'answer' says '\w', which is option \w as a letter or an index, and"
        ):
            task.read({"question": "2 + 1?", "choices": choices, "answer": answer})
    with pytest.raises(InputError, match="must be an index from 0 or a letter, not 'Pluto'"):
        task.read({"question": QUESTION, "choices": OPTIONS, "answer": "Pluto"})


def test_questions_of_the_other_sets() -> None:
    arc = find_task("arc_challenge").read(ARC)
    assert (arc.name, arc.gold, arc.key.right) == ("Mercury_7", "B) Venus", 1)
    csv = {**ARC, "choices": '{"text": ["Mercury", "Venus", "Earth"], "label": ["A", "B", "C"]}', "answerKey": "B"}
    assert find_task("arc_challenge").read(csv) == arc
    ten = [f"option {number}" for number in range(10)]
    record = {
        "question_id": 70,
        "question": QUESTION,
        "options": ten,
        "answer": "J",
        "answer_index": 9,
        "category": "law",
    }
    pro = find_task("mmlu_pro").read(record)
    assert (pro.name, pro.gold, pro.group) == ("70", "J) option 9", "law")
    gpqa = find_task("gpqa").read(GPQA)
    assert (gpqa.name, gpqa.gold, gpqa.group) == ("rec1", "Venus", "Physics/Astrophysics")
    assert find_task("mmlu").read({**MMLU, "subject": "marketing"}).group == "other/marketing"


@pytest.mark.parametrize(
    ("task", "record", "said"),
    [
        ("mmlu", {"subject": "x"}, "column 'question or Question' is missing"),
        ("mmlu", {**MMLU, "question": " "}, "column 'question' must be a text that is not blank"),
        ("mmlu", {"question": QUESTION, "answer": 1}, "column 'options or choices or A' is missing"),
        ("mmlu", {**MMLU, "choices": "Mercury, Venus"}, "column 'choices' must be a list of texts"),
        ("mmlu", {**MMLU, "choices": ["Venus"], "answer": 0}, "column 'choices' has 1 options: a choice has 2 to 26"),
        ("mmlu", {"question": QUESTION, "choices": OPTIONS}, "column 'answerKey or answer"),
        ("mmlu", {**MMLU, "answer": 4}, "column 'answer' is option number 4, counted from 0, of 4"),
        ("mmlu", {**MMLU, "answer": -1}, "column 'answer' is option number -1"),
        ("mmlu", {**MMLU, "answer": "E"}, "column 'answer' is option number 4"),
        ("mmlu", {**MMLU, "answer": "Venus"}, "column 'answer' must be an index from 0 or a letter, not 'Venus'"),
        ("mmlu", {**MMLU, "answer": True}, "column 'answer' must be an index from 0 or a letter, not bool True"),
        ("mmlu", {**MMLU, "answer": 0.5}, "column 'answer' must be an index from 0 or a letter"),
        ("mmlu", {**MMLU, "subject": 1.5}, "column 'subject' must be a text or a whole number"),
        ("mmlu", {"question": QUESTION, "A": "x", "C": "y", "Answer": "A"}, "columns of options must be A, B, C"),
        (
            "mmlu_pro",
            {**MMLU, "answer": "B", "answer_index": 2},
            "do not agree about the right option: answer option B",
        ),
        ("arc_challenge", {**ARC, "answerKey": "4"}, "column 'answerKey' must be one of the labels 1, 2, 3, not '4'"),
        ("arc_challenge", {**ARC, "choices": {"text": OPTIONS}}, "a list of texts or an object with text and label"),
        ("arc_challenge", {**ARC, "choices": {"text": OPTIONS, "label": ["1"]}}, "has 4 options for 1 labels"),
        ("gpqa", {**GPQA, "Incorrect Answer 2": None}, "column 'Incorrect Answer 2' is missing"),
        ("exam_base", {"question": QUESTION, "choices": ["a", ""], "answer": "A"}, "option B is empty"),
    ],
)
def test_a_wrong_column_is_one_clear_error(task: str, record: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        find_task(task).read(record)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_question_that_a_file_holds_twice_is_two_items_of_one_cluster() -> None:
    task = find_task("mmlu")
    assert isinstance(task, ArrangedTask)
    other = {**MMLU, "question": "Which is the coldest?"}
    found = task.arranged([task.read(MMLU), task.read(other), task.read(MMLU)])
    assert len({one.name for one in found}) == 3
    assert found[0].cluster == found[2].cluster == found[0].name
    assert found[1].cluster == ""


def messages(asked: Any) -> list[dict[str, str]]:
    assert isinstance(asked, Continue)
    assert isinstance(asked.prompt, Conversation)
    return to_plain(asked.prompt)


def test_chat_asks_in_one_message_with_the_published_rules() -> None:
    for name, letters in (("mmlu", "ABCD"), ("arc_challenge", "ABC")):
        task = find_task(name)
        item = task.read(MMLU if name == "mmlu" else ARC)
        for protocol in (PHI4, CORRECTED):
            asked = task.ask(item, [], switches_on(task, protocol, {}))
            (message,) = messages(asked)
            assert message["role"] == "user"
            assert f"among {letters}.\n\n{QUESTION}\n\nA) Mercury\nB) Venus\nC) Earth" in message["content"]
            assert "Answer: $LETTER" in message["content"]
            assert isinstance(asked, Continue)
            assert (asked.rules.temperature, asked.rules.max_tokens, asked.repeats) == (0.5, 2_048, 1)


def gpqa_items(count: int) -> list[Item]:
    task = find_task("gpqa")
    assert isinstance(task, ArrangedTask)
    return task.arranged(
        [task.read({**GPQA, "Record ID": f"rec{number}", "Question": f"{number}?\n"}) for number in range(count)]
    )


def test_orders_of_options_are_the_published_ones() -> None:
    """Drawn for the rows of the file ten times over, from one generator with seed 0."""
    task, items = find_task("gpqa"), gpqa_items(198)
    on = switches_on(task, PHI4, {})
    rows = [{"row": row} for row in range(198)] * 10
    generator = random.Random(0)
    orders = [generator.sample(range(4), 4) for _ in rows]
    stored = ["Venus\n", " Mercury", "Earth", "Mars"]
    for number in (0, 1, 197, 198, 1_000, 1_979):
        repeat, row = divmod(number, 198)
        asked = task.ask(items[row], [], on)
        assert isinstance(asked, Continue)
        assert (asked.repeats, len(asked.prompts)) == (10, 10)
        prompt = asked.prompts[repeat]
        assert isinstance(prompt, Conversation)
        listed = "\n".join(f"{letter}) {stored[place]}" for letter, place in zip("ABCD", orders[number], strict=True))
        assert prompt.messages[0].content.endswith(f"\n\n{row}?\n\n\n{listed}")
        right = "ABCD"[orders[number].index(0)]
        response = TaskResponse(item=items[row], asked=asked, repeat=repeat, text=f"Answer: {right}")
        assert task.grade([response], on, TOOLS)[0].scores == {"accuracy": 1.0}


def test_corrected_orders_do_not_depend_on_other_rows_and_are_even() -> None:
    task = find_task("gpqa")
    few, many = gpqa_items(3), gpqa_items(198)
    asked = [task.ask(items[2], [], frozenset()) for items in (few, many)]
    assert asked[0] == asked[1]
    published = [task.ask(items[2], [], frozenset({"order-by-row"})) for items in (few, many)]
    assert published[0] != published[1]
    raw = task.ask(few[2], [], frozenset({"options-as-stored"}))
    assert isinstance(raw, Continue)
    assert isinstance(asked[0], Continue)
    assert "Venus\n" in str(raw.prompts[0]) or "Venus\\n" in str(raw.prompts[0])
    assert raw.prompts != asked[0].prompts
    places = Counter(item.key.shown(repeat, frozenset()).right for item in many for repeat in range(10))
    assert all(abs(count - 495) < 4 * (1_980 * 3 / 16) ** 0.5 for count in places.values())


def scored(task_name: str, item: Item, totals: list[float]) -> dict[str, float]:
    task = find_task(task_name)
    asked = Choose(context="", continuations=())
    likelihoods = tuple(LogLikelihood(total, 1, False) for total in totals)
    (grade,) = task.grade([TaskResponse(item=item, asked=asked, likelihoods=likelihoods)], frozenset(), TOOLS)
    return dict(grade.scores)


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=12), st.integers(-40, 0)), min_size=2, max_size=10),
    st.integers(0, 9),
)
def test_scores_are_those_of_lm_eval(options: list[tuple[str, int]], right: int) -> None:
    """Its own `process_results`; whole numbers make ties, of which the first counts."""
    api = pytest.importorskip("lm_eval.api.task", reason="the extra megaphi[eval] is not installed")
    texts, right = [text for text, _ in options], right % len(options)
    totals = [float(total) for _, total in options]
    item = find_task("exam_base").read({"question": QUESTION, "choices": texts, "answer": right})
    wanted = api.MultipleChoiceTask.process_results(
        None, {"gold": right, "choices": texts}, [(one, False) for one in totals]
    )
    assert scored("exam_base", item, totals) == {"acc": wanted["acc"], "acc_norm": wanted["acc_norm"]}
    assert scored("exam_base_letters", item, totals) == {"acc": wanted["acc"]}


def test_a_log_likelihood_that_is_no_number_is_undecided() -> None:
    task = find_task("exam_base")
    item = task.read({"question": QUESTION, "choices": OPTIONS, "answer": 0})
    likelihoods = tuple(LogLikelihood(total, 1, False) for total in (float("nan"), -1.0, -2.0, -3.0))
    response = TaskResponse(item=item, asked=Choose(context="", continuations=()), likelihoods=likelihoods)
    (grade,) = task.grade([response], frozenset(), TOOLS)
    assert (grade.problem, dict(grade.scores)) == ("undecided", {"acc_norm": 0.0, "acc": 0.0})


def lm_eval_template(path: str, field: str) -> Any:
    lm_eval = pytest.importorskip("lm_eval", reason="the extra megaphi[eval] is not installed")
    import jinja2
    import yaml

    folder = Path(lm_eval.__path__[0]) / "tasks"
    return jinja2.Template(yaml.safe_load((folder / path).read_text())[field])


@pytest.mark.parametrize(
    ("task", "record", "path"),
    [
        ("mmlu_base", MMLU, "mmlu/default/_default_template_yaml"),
        ("arc_challenge_base", ARC, "arc/arc_easy.yaml"),
        ("exam_base", MMLU, "arc/arc_easy.yaml"),
        ("exam_base_letters", MMLU, "mmlu/default/_default_template_yaml"),
    ],
)
def test_texts_for_base_models_are_those_of_lm_eval(task: str, record: dict[str, Any], path: str) -> None:
    """But for the sentence that opens MMLU's prompts, which is ours."""
    opened = find_task(task)
    shots = [
        opened.read({**record, "question": f"Shot {number}?", "id": f"shot{number}"})
        for number in range(opened.shots + 2)
    ]
    asked = opened.ask(opened.read(record), shots, frozenset())
    assert isinstance(asked, Choose)
    template = lm_eval_template(path, "doc_to_text")
    by_letters = "letters" in task or task == "mmlu_base"
    texts = record["choices"]["text"] if isinstance(record["choices"], dict) else record["choices"]
    targets = list(LETTERS[: len(texts)]) if by_letters else texts
    docs = [{**record, "question": f"Shot {number}?"} for number in range(opened.shots)]
    wanted = "".join(f"{template.render(**doc)} {targets[1]}\n\n" for doc in docs) + template.render(**record)
    opening = (
        "Questions about astronomy, each with its choices and the right answer.\n\n" if task == "mmlu_base" else ""
    )
    assert asked.context == opening + wanted
    assert asked.continuations == tuple(f" {target}" for target in targets)


def test_worked_examples_are_of_the_subject_and_never_of_the_items() -> None:
    task = find_task("mmlu_base")
    shots = [task.read({**MMLU, "question": f"Shot {number}?"}) for number in range(5)]
    others = [task.read({**MMLU, "question": f"Law {number}?", "subject": "international_law"}) for number in range(5)]
    asked = task.ask(task.read(MMLU), [*others, *shots], frozenset())
    assert isinstance(asked, Choose)
    assert "Law" not in asked.context
    with pytest.raises(InputError, match=r"mmlu_base shows 5 worked examples of 'stem/astronomy', .* have 4"):
        task.ask(task.read(MMLU), [*others, *shots[:4]], frozenset())
    with pytest.raises(InputError, match="is the evaluated item"):
        task.ask(shots[0], shots, frozenset())
