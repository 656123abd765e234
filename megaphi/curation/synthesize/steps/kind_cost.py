"""The most that one document may cost through the chain of a kind: requests, answers and tokens.

An upper bound, stage by stage: every check passes, every draft has all its items, every answer is as long as it may
be, and every value of JSON is asked for three times.
"""

from __future__ import annotations

from megaphi.curation.requests.cost import Cost, CountTokens, of_text, of_value, total
from megaphi.curation.requests.metered import FRAME_TOKENS
from megaphi.curation.requests.template import Template
from megaphi.curation.synthesize.forms.work import JUDGEMENT_TOKENS
from megaphi.curation.synthesize.table.kind import FORMS, SyntheticKind
from megaphi.curation.synthesize.table.kinds_file import our_prompt

RENDERING_TOKENS = 128
"""More than what is put around question, answer and code when they become a text."""


def kind_cost(kind: SyntheticKind, document_tokens: int, count: CountTokens) -> Cost:
    """The cost of one work on a document of so many tokens."""
    cost = _KindCost(kind, document_tokens, count)
    return cost.draft() + cost.revisions() + total(cost.check(check) for check in kind.checks) * cost.items


def made_documents(kind: SyntheticKind) -> int:
    """Documents that come of one work at most."""
    return kind.settings["items"] if "items" in FORMS[kind.form].plain else 1


def made_tokens(kind: SyntheticKind, document_tokens: int, count: CountTokens) -> int:
    """Tokens of each at most."""
    return _KindCost(kind, document_tokens, count).work_tokens


class _KindCost:
    """The stages of one kind on one document."""

    def __init__(self, kind: SyntheticKind, document_tokens: int, count: CountTokens) -> None:
        self.kind, self.document, self._count = kind, document_tokens, count
        self.items = made_documents(kind)
        self._answer = kind.settings.get("answer_tokens", 0)
        own = {
            "code": 3 * kind.tokens + 2 * self._answer,
            "reversed": kind.tokens + document_tokens,
            "middle": kind.tokens + document_tokens,
        }
        self.work_tokens = own.get(kind.form, kind.tokens + self._answer) + RENDERING_TOKENS
        """The most that the text of a work has."""

    def draft(self) -> Cost:
        kind, tokens = self.kind, self.kind.tokens
        choices = {name: max(options, key=self._count) for name, options in kind.choices.items()}
        notes = {"qa": "form_qa", "chain": "form_chain", "conversation": "form_conversation", "code": "form_code"}
        if kind.form == "question":
            notes["question"] = "form_choice" if kind.settings["answer_kind"] == "choice" else "form_question"
        own = self._empty(kind.prompt, choices) + self.document + RENDERING_TOKENS
        if kind.form not in notes:
            return of_text(own, tokens)
        draft = of_value(own + self._empty(our_prompt(notes[kind.form]), {}), tokens)
        if kind.form == "code":
            draft += of_text(self._prompt("code_solution", tokens), self._answer)
            draft += of_text(self._prompt("code_tests", tokens), self._answer)
        return draft

    def revisions(self) -> Cost:
        rounds, draft = self.kind.settings.get("revise", 0), self.kind.tokens
        if not rounds:
            return Cost()
        rubric = self._count(self.kind.settings["rubric"])
        critique = of_value(self._prompt("critique", self.document + draft + rubric), JUDGEMENT_TOKENS)
        faults = 2 * JUDGEMENT_TOKENS
        revision = of_text(self._prompt("revise", self.document + draft + rubric + faults), draft)
        return critique * (rounds + 1) + revision * rounds

    def check(self, name: str) -> Cost:
        """The cost of a check on one item."""
        if name in ("plurality", "solved"):
            asked = self._prompt(f"answer_{self.kind.settings['answer_kind']}", self.work_tokens)
            return of_text(asked, self._answer, samples=self.kind.settings["answers"])
        if name == "faithful":
            again = of_text(self._prompt("regenerate", self.kind.tokens), self._answer)
            judged = self._prompt("judge_fidelity", self.document + self._answer)
            return again + of_value(judged, JUDGEMENT_TOKENS)
        judges = {
            "relevant": "judge_relevance",
            "difficulty": "judge_difficulty",
            "rubric": "judge_rubric",
            "grounded": "judge_grounded",
        }
        if name not in judges:
            return Cost()
        rubric = self._count(self.kind.settings.get("rubric", ""))
        return of_value(self._prompt(judges[name], self.document + self.work_tokens + rubric), JUDGEMENT_TOKENS)

    def _prompt(self, name: str, tokens: int) -> int:
        return self._empty(our_prompt(name), {}) + tokens

    def _empty(self, template: Template, plain: dict[str, str]) -> int:
        """Tokens of a prompt whose data are empty, the frame around it included."""
        numbers = dict.fromkeys(("items", "turns", "rubric"), " " * 24)
        shown = {name: value for name, value in (numbers | plain).items() if name in template.fields}
        data = dict.fromkeys(template.fields, "")
        filled = template.filled(plain=shown, data=data, seed=0, item="")
        return FRAME_TOKENS + self._count(filled.messages[0].content)
