"""Records for training and grading: conversations, preference pairs, questions, prompts, tables of evaluations."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from tests.fuzz.structured import json_line
from tests.fuzz.target import Target

TURNS = [{"role": "user", "content": "Is 7 prime?"}, {"role": "assistant", "content": "Yes: $7$ has no divisor."}]
CONVERSATIONS = [
    {"messages": [{"role": "system", "content": "Be brief."}, *TURNS]},
    {"messages": TURNS * 2},
    {"prompt": "Words?", "completion": "More words."},
    {"ids": [1, 2, 3, 4], "trained": [False, False, True, True]},
]
PAIRS = [
    {"prompt": TURNS[:1], "chosen": TURNS[1:], "rejected": [{"role": "assistant", "content": "No."}]},
    {"chosen": TURNS, "rejected": [TURNS[0], {"role": "assistant", "content": "No."}]},
    {"prompt_ids": [1, 2], "chosen_ids": [3], "rejected_ids": [4, 5]},
]
QUESTIONS = [
    {"id": "a", "prompt": "What is 6 x 7?", "math_answer": "42"},
    {"question": "Which?", "choices": ["one", "two"], "answer": 1},
    {"question": "Who?", "exact_answers": ["Ada", "Lovelace"]},
    {"prompt": "def f(x):", "tests": "def check(f):\n    assert f(1) == 1", "entry_point": "f"},
    {"problem": "Sum?", "solution": "It is $\\boxed{\\frac{1}{2}}$."},
]
TOKENS = (b'"role": "tool"', b'"content": null', b'"content": [{"type": "text"}]', b'"ids": [-1]', b"\\ud800",
          b"<|im_end|>",
          b'"weight": 0', b'"trained": [1]', b"\\boxed{", b"[" * 3_000)  # fmt: skip


@cache
def tokenizer() -> Any:
    from megaphi.tokenizer.phi4 import load_tokenizer

    return load_tokenizer(2_048)


def read_conversations(content: bytes) -> None:
    from megaphi.data.packed import conversations

    Path("input.jsonl").write_bytes(content)
    conversations.read_conversations(
        ["input.jsonl"], tokenizer(), train_on="assistant", sequence_length=4_096, too_long="skip"
    )


def read_pairs(content: bytes) -> None:
    from megaphi.data.packed import preference_pairs

    Path("input.jsonl").write_bytes(content)
    preference_pairs.read_pairs(
        ["input.jsonl"], tokenizer(), sequence_length=4_096, append_eos=True, max_completion_tokens=64, too_long="skip"
    )


def read_questions(content: bytes) -> None:
    from megaphi.grading.question_file import read_questions
    from megaphi.pivotal.preference.prompts import read_prompts

    Path("input.jsonl").write_bytes(content)
    read_questions("input.jsonl")
    read_prompts("input.jsonl")


def read_table(content: bytes) -> None:
    from megaphi.evaluation.data_files import records_of

    Path("input.csv").write_bytes(content)
    for _ in records_of(Path("input.csv")):
        pass


def lines(records: Sequence[dict[str, Any]]) -> Sequence[bytes]:
    """All of them as a file, and each by itself."""
    texts = [json.dumps(record).encode() for record in records]
    return [b"\n".join(texts), *texts]


def target(name: str, run: Callable[[bytes], None], records: Sequence[dict[str, Any]]) -> Target:
    return Target(
        name=name, run=run, seeds=partial(lines, records), mutators=(json_line,), tokens=TOKENS, memory_bytes=256 << 20
    )


TARGETS = (
    target("conversations", read_conversations, CONVERSATIONS),
    target("preference pairs", read_pairs, PAIRS),
    target("questions", read_questions, QUESTIONS),
    Target(
        name="evaluation table",
        run=read_table,
        seeds=lambda: [b'question,a,b,answer\n"Which, ""now""?",one,two,A\nWho?,"x\ny",z,B\n'],
        tokens=(b'"', b",", b"\r", b'""', b"\n" * 500, b"," * 5_000, b'"' + b"a" * 200_000),
        memory_bytes=256 << 20,
    ),
)
