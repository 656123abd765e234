"""The steps: every kind of the table runs within its bound; origins, resumed runs, budgets, and the choice of seeds."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megaphi.config import check_values
from megaphi.curation.document import Document, Outcome, Rejected
from megaphi.curation.requests.dry_run import costs_of_steps
from megaphi.curation.step import BatchStep
from megaphi.curation.synthesize.forms.work import Tools
from megaphi.curation.synthesize.steps.seed_source import seed_sources
from megaphi.curation.synthesize.steps.select_seeds import SelectSeeds
from megaphi.curation.synthesize.steps.synthesize import Synthesize
from megaphi.curation.synthesize.table.kinds_file import all_kinds
from megaphi.errors import InputError
from megaphi.grading.verdict import undecided
from megaphi.sampling import Sampling
from tests.curation.synthesize.fluent import BOOK, PROGRAM, fluent
from tests.curation.synthesize.scripted import Scripted, context, seed, wants

PAGES = [seed(BOOK + f"\nPage {number}.", name=f"page{number}") for number in range(3)]


def outcomes(step: Any, documents: list[Document], folder: Path, **samplers: Scripted) -> list[Outcome]:
    folder.mkdir(parents=True, exist_ok=True)
    return list(step.open_batch(context(folder, **samplers))(documents))


def kept(found: list[Outcome]) -> list[Document]:
    return [one for one in found if isinstance(one, Document)]


def reasons(found: list[Outcome]) -> Counter[str]:
    return Counter(one.reason for one in found if isinstance(one, Rejected))


@pytest.fixture
def roomy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds with room for answers whose tokens are bytes."""
    from megaphi.curation.synthesize.steps import synthesize

    def find(name: str, *, table: str = "") -> Any:
        kind = all_kinds(table=table)[name]
        settings = {**kind.settings, **({"answer_tokens": 4_000} if "answer_tokens" in kind.settings else {})}
        return replace(kind, tokens=30_000, settings=settings)

    monkeypatch.setattr(synthesize, "find_kind", find)


@pytest.mark.parametrize("name", [name for name, kind in all_kinds().items() if kind.form != "code"])
def test_every_kind_makes_documents_within_its_bound(roomy: None, tmp_path: Path, name: str) -> None:
    kind = all_kinds()[name]
    text = PROGRAM if "code" in kind.seeds and kind.form != "text" else BOOK
    document = seed(text, seed_source=kind.seeds[0], licence="CC0")
    sampler = Scripted(fluent)
    step = check_values(Synthesize(kind=name, sampler="a", per_seed=2))
    assert isinstance(step, BatchStep)
    found = outcomes(step, [document], tmp_path, a=sampler)
    made = kept(found)
    assert made, [(one.reason, one.detail) for one in found if isinstance(one, Rejected)]
    assert len({one.id for one in made}) == len(made)
    for one in made:
        origin = one.metadata["synthetic"]
        assert (origin["kind"], origin["seed_document"], origin["sampler"], origin["round"]) == (
            name,
            "page",
            "scripted",
            1,
        )
        assert origin["prompt"]["sha256"] == kind.prompt.sha256
        assert set(origin["choices"]) == set(kind.choices)
        assert one.metadata["licence"] == "CC0"
        assert ("messages" in one.metadata) == (kind.form != "text")
        json.dumps(dict(one.metadata))
    (bound,) = costs_of_steps([step], [document])
    assert len(sampler.seeds) <= bound.cost.requests
    assert len(sampler.prompts) <= bound.cost.answers
    assert sampler.tokens <= bound.cost.prompt_tokens + bound.cost.answer_tokens


@pytest.mark.parametrize("name", [name for name, kind in all_kinds().items() if kind.form == "code"])
def test_kinds_of_code_run_what_they_keep(roomy: None, tmp_path: Path, name: str) -> None:
    document = seed(PROGRAM, seed_source=all_kinds()[name].seeds[0])
    step, sampler = Synthesize(kind=name, sampler="a"), Scripted(fluent)
    (made,) = kept(outcomes(step, [document], tmp_path, a=sampler))
    assert made.metadata["tests"]["entry_point"] == "count_vowels"
    (bound,) = costs_of_steps([step], [document])
    assert sampler.tokens <= bound.cost.prompt_tokens + bound.cost.answer_tokens


def test_code_that_could_not_be_run_is_not_kept(roomy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def grade(self, batch: list[Any]) -> list[Any]:
            return [undecided("the box failed")] * len(batch)

    monkeypatch.setattr(Tools, "sandbox", Broken())
    document = seed(PROGRAM, seed_source="code")
    found = outcomes(Synthesize(kind="code_task", sampler="a"), [document], tmp_path, a=Scripted(fluent))
    assert reasons(found) == {"not_run": 1}


def test_a_resumed_run_asks_nothing_twice_and_gives_the_same(roomy: None, tmp_path: Path) -> None:
    step = Synthesize(kind="word_problems", sampler="a", per_seed=3)
    first, second = Scripted(fluent), Scripted(fluent)
    found = outcomes(step, PAGES, tmp_path, a=first)
    assert outcomes(step, PAGES, tmp_path, a=second) == found
    assert second.prompts == []
    assert len(kept(found)) == 3 * 3 * 4


def test_a_run_that_was_killed_goes_on_and_a_budget_ends_it_where_it_would_have_ended(
    roomy: None, tmp_path: Path
) -> None:
    whole = Scripted(fluent)
    step = Synthesize(kind="qa_facts", sampler="a", budget_tokens=60_000, judge="b", seed_source="book")
    found = outcomes(step, PAGES, tmp_path / "whole", a=whole, b=Scripted(fluent, name="judge"))
    assert reasons(found)["budget"] > 0

    class Dies(Scripted):
        def _answer(self, text: str, rules: Sampling, number: int) -> Any:
            if len(self.prompts) >= 2:
                raise KeyboardInterrupt
            return super()._answer(text, rules, number)

    with pytest.raises(KeyboardInterrupt):
        outcomes(step, PAGES, tmp_path / "killed", a=Dies(fluent), b=Dies(fluent, name="judge"))
    again = outcomes(step, PAGES, tmp_path / "killed", a=Scripted(fluent), b=Scripted(fluent, name="judge"))
    assert again == found


def test_a_larger_budget_goes_on_from_where_the_smaller_one_ended(roomy: None, tmp_path: Path) -> None:
    step = Synthesize(kind="comparison_table", sampler="a", budget_tokens=36_000)
    first = Scripted(fluent)
    assert reasons(outcomes(step, PAGES, tmp_path, a=first)) == {"budget": 2}
    second = Scripted(fluent)
    found = outcomes(replace(step, budget_tokens=None), PAGES, tmp_path, a=second)
    assert (len(kept(found)), len(second.prompts)) == (3, 2)


def test_seeds_that_do_not_fit_are_rejected_or_passed_on(roomy: None, tmp_path: Path) -> None:
    code = Document(id="c", source="pool/a.py", place="pool/a.py", text=PROGRAM)
    step = Synthesize(kind="comparison_table", sampler="a")
    found = outcomes(step, [PAGES[0], code], tmp_path, a=Scripted(fluent))
    assert reasons(found) == {"other_seed": 1}
    found = outcomes(replace(step, keep_seeds=True), [PAGES[0], code], tmp_path, a=Scripted(fluent))
    assert [one.id for one in kept(found)] == ["page0", "page0/comparison_table/0", "c"]
    passed = outcomes(replace(step, keep_seeds=True), kept(found), tmp_path, a=Scripted(fluent))
    assert [one.id for one in kept(passed)].count("page0/comparison_table/0") == 2
    passed = outcomes(replace(step, kind="code_documentation"), kept(found), tmp_path, a=Scripted(fluent))
    assert [one.id for one in kept(passed)] == ["page0/comparison_table/0", "c/code_documentation/0"]
    assert reasons(passed) == {"other_seed": 1}
    everything = outcomes(replace(step, kind="error_hunt"), [], tmp_path, a=Scripted(fluent))
    assert everything == []


def test_a_synthetic_question_is_a_seed_of_the_second_round(roomy: None, tmp_path: Path) -> None:
    questions = kept(
        outcomes(Synthesize(kind="word_problems", sampler="a"), PAGES[:1], tmp_path / "1", a=Scripted(fluent))
    )
    assert seed_sources(questions[0]) == {"synthetic", "question"}
    (made, *_) = kept(
        outcomes(Synthesize(kind="harder_variations", sampler="a"), questions, tmp_path / "2", a=Scripted(fluent))
    )
    assert made.metadata["synthetic"]["round"] == 2
    assert made.metadata["synthetic"]["seed_document"] == questions[0].id
    assert made.metadata["reference"] == "7"


def test_a_task_with_its_solution_is_no_file_of_code(tmp_path: Path) -> None:
    code = Document(id="c", source="pool/a.py", place="pool/a.py", text=PROGRAM)
    found = outcomes(Synthesize(kind="code_task", sampler="a"), [code], tmp_path, a=Scripted(fluent))
    assert [seed_sources(one) for one in kept(found)] == [{"synthetic", "task"}]


def test_sources_of_seeds() -> None:
    page = Document(id="a", source="https://a.org/x.html?a=b.py", place="p")
    assert seed_sources(page) == {"page"}
    assert seed_sources(page, otherwise="book") == {"book"}
    assert seed_sources(replace(page, source="a/x.PY")) == {"code"}
    assert seed_sources(replace(page, source="a.tar!x.rs")) == {"code"}
    assert seed_sources(page.known(seed_source="exam"), otherwise="book") == {"exam"}
    assert seed_sources(page.known(seed={"chosen_for": "facts"})) == {"facts", "page"}


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (Synthesize(kind="tables", sampler="a"), "no kind of synthetic data 'tables'"),
        (Synthesize(kind="faq", sampler="a", table="no_folder"), "this table of kinds cannot be read"),
        (Synthesize(kind="faq", sampler="b"), "no model b here"),
    ],
)
def test_what_cannot_be_opened_is_said_before_anything_is_asked(tmp_path: Path, step: Synthesize, problem: str) -> None:
    def open_sampler(place: str) -> Scripted:
        raise InputError(f"no model {place} here")

    with pytest.raises(InputError, match=problem):
        step.open_batch(replace(context(tmp_path), open_sampler=open_sampler))


# The choice of seeds


PARAGRAPH = "This paragraph is about {0} and says rather much of it, as it has to be two hundred characters long. " * 3


def scorer(prompt: str, rules: Sampling, number: int) -> str:
    assert wants(rules) == ("findings", "score")
    if "could learn from this page" in prompt:
        score = 1 if "advertising!" in prompt else 4
        return "prose" if "odd page" in prompt else json.dumps({"findings": "x", "score": score})
    if "odd passage" in prompt:
        return "prose"
    facts, reasoning = (4 if "gold" in prompt else 2), (5 if "logic" in prompt else 3)
    return json.dumps({"findings": "x", "score": facts if "precise facts" in prompt else reasoning})


def test_pages_are_scored_first_and_the_best_passages_go_on(tmp_path: Path) -> None:
    subjects = ["gold", "nothing", "logic", "gold and logic", "gold again", "gold once more"]
    text = "\n\n".join(PARAGRAPH.format(subject) for subject in subjects)
    documents = [seed(text, name="good"), seed("advertising!", name="bad"), seed("odd page", name="odd")]
    documents += [
        seed(PARAGRAPH.format("nothing"), name="empty"),
        seed("odd passage " * 30, name="odd2"),
        seed("short", name="s"),
    ]
    step = check_values(SelectSeeds(sampler="a", window_characters=400, best=2))
    sampler = Scripted(scorer)
    found = outcomes(step, documents, tmp_path, a=sampler)
    rejected = {one.document.id: one.reason for one in found if isinstance(one, Rejected)}
    assert rejected == {
        "bad": "page_score",
        "odd": "unreadable",
        "empty": "no_passage",
        "odd2": "unreadable",
        "s": "no_passage",
    }
    chosen = {
        (one.metadata["seed"]["chosen_for"], one.text.split("about ")[1].split(" and says")[0]) for one in kept(found)
    }
    assert chosen == {("facts", "gold"), ("reasoning", "logic"), ("reasoning", "gold and logic")}
    for one in kept(found):
        start, end = one.metadata["seed"]["characters"]
        assert one.text == text[start:end].strip()
        assert one.id == f"good#{start}-{end}"
        assert one.metadata["seed"]["page_score"] == 4
    (bound,) = costs_of_steps([step], documents)
    assert len(sampler.prompts) <= bound.cost.requests
    assert sampler.tokens <= bound.cost.prompt_tokens + bound.cost.answer_tokens
    assert outcomes(step, documents, tmp_path, a=Scripted(scorer)) == found


def test_a_budget_ends_the_choice_of_seeds_and_is_counted(tmp_path: Path) -> None:
    documents = [seed(PARAGRAPH.format("gold"), name=f"page {number}") for number in range(30)]
    found = outcomes(SelectSeeds(sampler="a", budget_tokens=20_000), documents, tmp_path, a=Scripted(scorer))
    assert reasons(found)["budget"] > 0
    assert kept(found) or reasons(found)["budget"] == 30


def test_the_chain_of_a_recipe_is_bounded_as_a_whole(roomy: None, tmp_path: Path) -> None:
    select = SelectSeeds(sampler="a", window_characters=400, best=2)
    write = Synthesize(kind="word_problems", sampler="a", budget_tokens=10, prompt_price=1.0, answer_price=2.0)
    pages = [seed("\n\n".join(PARAGRAPH.format(one) for one in ("gold", "logic", "nothing")))]
    choosing, writing = Scripted(scorer), Scripted(fluent)
    seeds = kept(outcomes(select, pages, tmp_path / "1", a=choosing))
    outcomes(replace(write, budget_tokens=None), seeds, tmp_path / "2", a=writing)
    first, second = costs_of_steps([select, object(), write], pages)
    assert choosing.tokens <= first.cost.prompt_tokens + first.cost.answer_tokens
    assert writing.tokens <= second.cost.prompt_tokens + second.cost.answer_tokens
    assert second.documents == 3
    assert "at most 3 documents" in str(second)
    assert "in money; it stops at its budget of 10 tokens" in str(second)
    assert second.money == (second.cost.prompt_tokens + 2 * second.cost.answer_tokens) / 1e6
