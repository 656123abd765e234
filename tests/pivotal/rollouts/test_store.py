"""The store of rollouts: found again, graded again when a key changes, refused when it is of another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaphi.errors import InputError
from megaphi.grading.verdict import Verdict, right, undecided, wrong
from megaphi.pivotal.rollouts.store import RolloutKey, RolloutStore, prefix_digest

FACTS = {"model": "sha256:12", "tokenizer": "sha256:34", "rules": {"temperature": 1.0, "top_p": 0.9}}
KEY = RolloutKey("q", prefix_digest([1, 2, 3]), None, "search", 0)


def test_what_was_added_is_found_when_the_store_is_opened_again(tmp_path: Path) -> None:
    store = RolloutStore(tmp_path / "rollouts", FACTS)
    keys = [
        KEY,
        KEY._replace(number=1),
        KEY._replace(excluded=7),
        KEY._replace(purpose="confirm"),
        KEY._replace(prefix=prefix_digest([1, 2])),
        KEY._replace(question='p "ü"\n'),
    ]
    added = [store.add(key, (number, 100_351), "stop") for number, key in enumerate(keys)]
    cut_off = store.add(KEY._replace(number=9), (), "length")
    store.judge([(added[0], "a", right("4 = 4")), (added[1], "a", wrong("5")), (added[2], "b", undecided("…"))])
    store.close()
    again = RolloutStore(tmp_path / "rollouts", FACTS)
    assert [again.get(key) for key in keys] == added
    assert again.get(KEY._replace(number=9)) == cut_off
    assert again.get(KEY._replace(number=2)) is None
    assert len(again) == 7
    assert again.verdict(added[0], "a") == Verdict("right", "4 = 4")
    assert again.verdict(added[0], "b") is None
    assert store.verdict(added[2], "b") == Verdict("undecided", "…")
    assert again.verdict(added[2], "b") is None  # the grader may have been short of time: it is asked again
    with pytest.raises(ValueError, match="is in the store already"):
        again.add(KEY, (1,), "stop")


@pytest.mark.parametrize(
    ("facts", "difference"),
    [
        ({**FACTS, "model": "sha256:99"}, r"model: 'sha256:12' there, 'sha256:99' here"),
        ({**FACTS, "rules": {"temperature": 1.0, "top_p": 1.0}}, r"rules: .*0\.9.* there, .*1\.0.* here"),
        ({"model": FACTS["model"], "rules": FACTS["rules"]}, r"tokenizer: 'sha256:34' there, None here"),
    ],
)
def test_a_store_of_another_search_is_refused_and_left_as_it_is(
    facts: dict[str, object], difference: str, tmp_path: Path
) -> None:
    path = tmp_path / "rollouts"
    store = RolloutStore(path, FACTS)
    store.add(KEY, (1,), "stop")
    store.close()
    content = path.read_bytes()
    with pytest.raises(InputError, match=difference):
        RolloutStore(path, facts)
    assert path.read_bytes() == content
    RolloutStore(path, FACTS).close()  # nobody holds it


def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rollouts"
    path.write_text('{"store":2,"facts":{}}\n')
    with pytest.raises(InputError, match="format: 2 there, 1 here"):
        RolloutStore(path, FACTS)


@pytest.mark.parametrize(
    "line",
    ['{"question":"q"}', "[1]", '{"rollout":0}', '{"question":"q","prefix":"","excluded":1,"purpose":"x","number":1,'],
)
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rollouts"
    RolloutStore(path, FACTS).close()
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match="line 2 is not a rollout"):
        RolloutStore(path, FACTS)


def test_prefixes_of_any_token_ids_have_digests_of_their_own() -> None:
    lists = [(), (0,), (0, 0), (1, 0), (256,), (1,), (0, 1), (65_536,), (100_351,)]
    assert len({prefix_digest(one) for one in lists}) == len(lists)
    assert prefix_digest([3, 4]) == prefix_digest((3, 4))
