"""The store of rollouts: an append-only file, so that no rollout is paid for twice, after a kill or in a later search.

Three kinds of line. The first says which model, tokenizer and sampling rules the rollouts are of; a search with others
is refused. A rollout is found by its key: question, digest of the prefix's token ids, excluded token, purpose, number.
A verdict names a rollout by its place in the file and the answer key by its digest: where the ground truth of a
question changes, its rollouts are graded again and none is generated again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from megaphi.errors import InputError
from megaphi.grading.verdict import Verdict
from megaphi.json_log import JsonLog
from megaphi.json_text import parse_json
from megaphi.sampling import Finish

FORMAT = 1


class RolloutKey(NamedTuple):
    """Identity of a rollout: the draw that it is a sample of, and its number. Equal keys are the same rollout."""

    question: str
    prefix: str
    """`prefix_digest` of the prompt and of the part of the answer that the rollout continues."""
    excluded: int | None
    purpose: str
    number: int


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """A continuation as the model made it."""

    place: int
    """Its place among the rollouts of the file, from 0."""
    tokens: tuple[int, ...]
    """With the stop token, if one ended it."""
    finish: Finish


def prefix_digest(tokens: Iterable[int]) -> str:
    """32 hex digits of a list of token ids."""
    ids = np.fromiter(tokens, dtype="<i4")
    return hashlib.sha256(ids.tobytes()).hexdigest()[:32]


class RolloutStore:
    """An open store. One process at a time has it."""

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any]) -> None:
        """Open or create the file.

        Args:
            facts: what the rollouts depend on: model, tokenizer, sampling rules. Plain JSON values.

        Raises:
            InputError: the file is of other facts, damaged, or another process has it.
        """
        self._facts: dict[str, Any] | None = None
        self._rollouts: dict[RolloutKey, StoredRollout] = {}
        self._verdicts: dict[tuple[int, str], Verdict] = {}
        self._log = JsonLog(path, self._remember, what="a rollout", exclusive=True)
        # A limit of time or memory may have been the reason: what was undecided is graded again.
        self._verdicts = {key: one for key, one in self._verdicts.items() if one.outcome != "undecided"}
        try:
            self._check(parse_json(json.dumps({"format": FORMAT, **facts})))
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._rollouts)

    def get(self, key: RolloutKey) -> StoredRollout | None:
        return self._rollouts.get(key)

    def add(self, key: RolloutKey, tokens: tuple[int, ...], finish: Finish) -> StoredRollout:
        """Append a rollout, whose key must be new."""
        if key in self._rollouts:
            raise ValueError(f"{key} is in the store already")
        line = {**key._asdict(), "tokens": tokens, "finish": finish}
        self._log.add(line)
        self._remember(line)
        return self._rollouts[key]

    def verdict(self, rollout: StoredRollout, grader: str) -> Verdict | None:
        """The verdict on the answer that a rollout completed, by the answer key with the digest `grader`."""
        return self._verdicts.get((rollout.place, grader))

    def judge(self, verdicts: Iterable[tuple[StoredRollout, str, Verdict]]) -> None:
        """Append verdicts."""
        lines = [
            {"rollout": rollout.place, "grader": grader, "outcome": verdict.outcome, "reason": verdict.reason}
            for rollout, grader, verdict in verdicts
        ]
        self._log.add_all(lines)
        for line in lines:
            self._remember(line)

    def close(self) -> None:
        self._log.close()

    def _remember(self, line: dict[str, Any]) -> None:
        if "store" in line:
            self._facts = {"format": line["store"], **line["facts"]}
        elif "rollout" in line:
            self._verdicts[line["rollout"], line["grader"]] = Verdict(line["outcome"], line["reason"])
        else:
            key = RolloutKey(line["question"], line["prefix"], line["excluded"], line["purpose"], line["number"])
            self._rollouts[key] = StoredRollout(len(self._rollouts), tuple(line["tokens"]), line["finish"])

    def _check(self, facts: dict[str, Any]) -> None:
        if self._facts is None:
            self._log.add({"store": facts.pop("format"), "facts": facts})
            return
        names = [name for name in self._facts | facts if self._facts.get(name) != facts.get(name)]
        if names:
            differing = "; ".join(
                f"{name}: {self._facts.get(name)!r} there, {facts.get(name)!r} here" for name in names
            )
            raise InputError(
                f"the rollouts in {self._log.path} are of another search ({differing}): use another folder"
            )
