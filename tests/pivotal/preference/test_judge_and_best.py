"""Judging from prompts to pairs, and the best of several responses, with samplers that are told what to say."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megaphi.conversation import Conversation, Message
from megaphi.errors import InputError, RunFailed
from megaphi.grading.verdict import Verdict, right, undecided, wrong
from megaphi.pivotal.preference.best import BestSettings, best_responses, write_best
from megaphi.pivotal.preference.judge import JudgedRun, JudgeSettings, judge_prompts
from megaphi.pivotal.preference.judge_report import write_judged
from megaphi.pivotal.preference.pairs import PairRule
from megaphi.pivotal.preference.prompts import AskedPrompt, read_prompts
from tests.pivotal.preference.scripted import Scripted, as_json, judgement, opener

PROMPTS = [
    AskedPrompt(name=f"q{number}", conversation=Conversation((Message("user", f"Question {number}?"),)))
    for number in range(6)
]


def responding(prompt: Conversation, sample: int) -> str:
    """Each response says how good it is; prompt 5 has four of the same, prompt 4 an empty one."""
    number = int(prompt.messages[-1].content.split()[1].rstrip("?"))
    if number == 5:
        return "always the same 3"
    if number == 4 and sample == 0:
        return "  "
    return f"Answer {number}, {'padding ' * (3 * ((sample * 7 + number) % 5))}quality {1 + (sample + number) % 5}"


def responses_of(prompt: Conversation) -> list[str]:
    return re.findall(r"--- \w+ begin (?:first |second )?response ---\n(.*?)\n--- ", prompt.messages[-1].content, re.S)


def quality(text: str) -> int:
    return int(text[-1])


def by_quality(prompt: Conversation, _: int) -> str:
    found = [judgement(quality(text)) for text in responses_of(prompt)]
    return as_json(found[0] if len(found) == 1 else {"first": found[0], "second": found[1]})


def run(judge: Any, models: dict[str, Any] | None = None, **settings: Any) -> tuple[JudgedRun, JudgeSettings]:
    models = models or {"m": Scripted(responding)}
    chosen = JudgeSettings(models=tuple(models), judge="judge", **settings)
    judges = judge if isinstance(judge, Scripted) else Scripted(judge)
    return judge_prompts(PROMPTS, chosen, opener(judge=judges, **models)), chosen


def test_the_better_response_is_chosen_and_what_is_missing_is_named() -> None:
    found, _ = run(by_quality)
    assert [PROMPTS[pair.chosen.prompt].name for pair in found.pairs] == ["q0", "q1", "q2", "q3", "q4"]
    assert all(quality(pair.chosen.text) > quality(pair.rejected.text) for pair in found.pairs)
    assert (found.responses, len(found.judged)) == (24, 19)
    assert dict(found.left_out.counts) == {
        "the response is empty": 1,
        "the response says what another one says": 3,
        "fewer than two responses could be judged": 1,
    }
    assert ("fewer than two responses could be judged", "q5", "") in found.left_out.items


def test_several_samplers_answer_and_a_refused_prompt_is_named() -> None:
    def refusing(prompt: Conversation, sample: int) -> str:
        if "2" in prompt.messages[-1].content:
            raise InputError("too long for this one")
        return f"other {responding(prompt, sample + 2)}"

    found, _ = run(by_quality, {"a": Scripted(responding), "b": Scripted(refusing)}, samples=2)
    assert Counter(item.response.model for item in found.judged) == {"a": 10, "b": 9}
    assert ("the sampler refuses the prompt", "q2 by b", "too long for this one") in found.left_out.items
    assert {pair.chosen.model for pair in found.pairs} == {"a", "b"}


def test_every_two_in_both_orders() -> None:
    found, settings = run(by_quality, mode="pairwise", pairs=PairRule(pick="all"))
    honest, _ = run(by_quality, pairs=PairRule(pick="all"))
    sides = lambda of: sorted((pair.chosen.name, pair.rejected.name, pair.difference) for pair in of.pairs)  # noqa: E731
    assert sides(found) == sides(honest)
    assert found.first_won == found.second_won > 0
    assert found.orders_disagreed == 0
    assert settings.judgements == 12
    assert len(run(by_quality, mode="pairwise")[0].pairs) == 5


def test_a_judge_that_prefers_what_it_reads_first_makes_no_pair(tmp_path: Path) -> None:
    found, settings = run(lambda *_: as_json({"first": judgement(4), "second": judgement(2)}), mode="pairwise")
    assert found.pairs == []
    assert (found.second_won, found.undecided) == (0, 0)
    assert (
        found.orders_disagreed
        == found.first_won / 2
        == found.left_out.counts["the two orders disagree, which is a tie"]
    )
    write_judged(tmp_path, found, settings)
    report = (tmp_path / "report.md").read_text()
    assert (
        "Comparisons that the first response won: 54 of 54, a share of 1.000 (95 % interval 0.934 to 1.000)" in report
    )
    assert "In 27 pairs the two orders named different winners." in report


def test_a_judge_that_likes_length_is_found_out(tmp_path: Path) -> None:
    def by_length(prompt: Conversation, _: int) -> str:
        (text,) = responses_of(prompt)
        return as_json(judgement(min(5, 1 + len(text) // 30)))

    liking, settings = run(by_length)
    honest, _ = run(by_quality)
    for name, found, low, high in (("liking", liking, 0.9, 1.01), ("honest", honest, -0.7, 0.7)):
        write_judged(tmp_path / name, found, settings)
        said = re.search(
            r"Rank correlation of accuracy with .*: (-?[\d.]+) ", (tmp_path / name / "report.md").read_text()
        )
        assert said is not None
        assert low <= float(said[1]) < high
    text = (tmp_path / "liking" / "report.md").read_text()
    assert "Pairs whose longer side won: 5 of 5, a share of 1.000" in text
    assert (tmp_path / "liking" / "scores.png").read_bytes().startswith(b"\x89PNG")


def test_a_judge_that_answers_prose_or_dies() -> None:
    found, _ = run(lambda *_: "I like it.", attempts=2)
    assert (found.pairs, found.judged) == ([], [])
    assert found.left_out.counts["the judge gave no judgement that can be read"] == 19
    assert found.left_out.counts["fewer than two responses could be judged"] == 6

    def dying(*_: Any) -> str:
        raise RunFailed("http://h/v1: given up after 6 attempts: TimeoutError")

    with pytest.raises(RunFailed, match="TimeoutError"):
        run(dying)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 1}, "one response to each prompt makes no pair"),
        ({"samples": 0}, "--samples 0"),
        ({"attempts": 0}, "--attempts 0"),
        ({"rules": JudgeSettings(models=("m",), judge="").judge_rules}, "--temperature 0 gives the same response"),
    ],
)
def test_settings_that_make_no_pair_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(by_quality, **settings)


def test_reports_hold_no_markup_of_models(tmp_path: Path) -> None:
    name = "m|<script>![x](y)"
    found, settings = run(by_quality, {name: Scripted(responding)})
    write_judged(tmp_path, found, settings)
    report = (tmp_path / "report.md").read_text()
    assert r"m\|\<script\>\!\[x\](y)" in report


def test_the_best_by_key_is_right_and_every_prompt_without_is_named(tmp_path: Path) -> None:
    def grade(items: Any) -> list[Verdict]:
        return [
            undecided("two verifiers disagree") if number == 1 else right("5") if text.endswith("5") else wrong("no")
            for number, text in items
        ]

    settings = BestSettings(models=("m",), samples=3)
    run = best_responses(PROMPTS, settings, opener(m=Scripted(responding)), grade=grade)
    assert {prompt.name for prompt, _ in run.best} == {"q2", "q3"}
    assert all(response.text.endswith("5") for _, response in run.best)
    named = {name: reason for reason, name, _ in run.left_out.items if "/" not in name}
    assert named == dict.fromkeys(("q0", "q1", "q4", "q5"), "no response is right")
    assert run.left_out.counts["the grader could not decide about a response"] == 3
    assert run.right_of == [(0, 3), (0, 3), (1, 3), (1, 3), (0, 2), (0, 1)]
    write_best(tmp_path, run, settings)
    assert "Prompts with a good response: 2 of 6, a share of 0.333" in (tmp_path / "report.md").read_text()


def test_the_best_by_judge_is_accurate_then_good_then_short() -> None:
    texts = {0: "right and long, rather long 5", 1: "right 5", 2: "fine 5", 3: "bad 1"}
    scores = {texts[0]: judgement(5, 5, 5), texts[1]: judgement(5, 5, 5), texts[2]: judgement(5, 5, 4)}
    judge = Scripted(lambda prompt, _: as_json(scores.get(responses_of(prompt)[0], judgement(1))))
    model = Scripted(lambda _, sample: texts[sample])
    run = best_responses(PROMPTS[:1], BestSettings(models=("m",), judge="j", samples=4), opener(m=model, j=judge))
    assert [response.text for _, response in run.best] == [texts[1]]
    strict = BestSettings(models=("m",), judge="j", samples=4, least_accuracy=5)
    none = best_responses(PROMPTS[:1], strict, opener(m=model, j=Scripted(lambda *_: as_json(judgement(4)))))
    assert (none.best, dict(none.left_out.counts)) == ([], {"no response has the accuracy asked for": 1})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ('{"prompt": "a"}\n{"text": "b"}\n', "prompts.jsonl:2: no prompt: a record has one of prompt"),
        ('{"prompt": "a", "messages": []}\n', "'prompt' and 'messages' are both prompts"),
        ('{"prompt": 5}\n', "prompts.jsonl:1: 'prompt' must be a text or a list of messages"),
        ('{"prompt": " "}\n', "must end with a message of the user that is not empty"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}\n', "must end with a message of the user"),
        (
            '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n',
            "prompts.jsonl:2: the id 'x' is that of an earlier",
        ),
        ('{"prompt": "a", "id": true}\n', "'id' must be"),
        ('{"prompt": "a", "images": ["x.png"]}\n', "'images' would change what is asked"),
        ('{"prompt": "a", "reference": 4}\n', "'reference' must be a text"),
        ("no json\n", "prompts.jsonl:1"),
    ],
)
def test_files_of_prompts_that_cannot_be_used(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read_prompts(str(tmp_path / "prompts.jsonl"))
