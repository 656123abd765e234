"""A scripted model that does whatever any kind of the table asks for, and is content with all of it."""

from __future__ import annotations

import json
import re
from typing import Any

from megaphi.sampling import Sampling
from tests.curation.synthesize.scripted import wants

BOOK = """# Heat

Copper conducts heat about twenty times better than steel does, which is why it is used for pans.

The rate is $q = -k \\nabla T$ in a solid body. Metals have a large $k$ and wood a small one. That decides much.

Pans have wooden handles for this reason alone, and nobody burns a hand.
"""
PROGRAM = '''import math


def count_vowels(text):
    """How many."""
    total = 0
    for letter in text:
        total += letter in "aeiou"
    return total


print(count_vowels("the end of it"))
'''
SOLUTION = "```python\ndef count_vowels(text):\n    return sum(one in 'aeiou' for one in text)\n```"
TESTS = (
    "```python\nassert count_vowels('') == 0\nassert count_vowels('tree') == 2\nassert count_vowels('idea') == 3\n```"
)
SHAPES = (
    "Exercise {n}",
    "## For {n}",
    "| {n} | b |",
    "### {n}?",
    "$x = {n}$",
    "Step {n}: go",
    "**term {n}**: a",
    "Board: {n}",
    "Assessment",
    "```",
)
"""Lines that fit the patterns of the table."""
WORDS = " ".join(f"word{number}" for number in range(520))
TEXT = "\n".join(shape.format(n=number) for shape in SHAPES for number in range(1, 8)) + f"\n{WORDS}"
QUOTE = {"claim": "Metals conduct.", "quote": "Metals have a large"}
PROGRAM_QUOTE = {"claim": "It counts.", "quote": "total += letter in"}


def fluent(prompt: str, rules: Sampling, number: int) -> str:
    """An answer to any prompt."""
    fields = wants(rules)
    if fields:
        return json.dumps(_value(fields, prompt))
    if re.search(r"holds nothing but the result in a box", prompt):
        return rf"\boxed{{{7 if number % 8 < 5 else number}}}"
    if "nothing but the answer itself" in prompt:
        return f"Answer: {'seven' if number % 8 < 5 else number}"
    if "The last line of your answer must be 'Answer: LETTER'" in prompt:
        return f"Answer: {'B' if number % 8 < 5 else 'C'}"
    if "Write tests for a function" in prompt:
        return TESTS
    if "Write a function of Python that solves this task" in prompt:
        return SOLUTION
    if "Write the program that this instruction asks for" in prompt:
        return f"```python\n{PROGRAM}```"
    if re.search(r"Write (?:the|an) (?:instruction|request|message|task|what)", prompt):
        return "Please write what belongs here."
    return TEXT


def _value(fields: tuple[str, ...], prompt: str) -> Any:
    quote = PROGRAM_QUOTE if "count_vowels" in prompt else QUOTE
    question = "How many are seven?"
    match fields:
        case ("items", "question", "reasoning", "answer"):
            answer = "seven" if "needed to" in prompt or "value, an output" in prompt else "7"
            answer = WORDS[:100] if "documentation" in prompt or "why or how" in prompt else answer
            items = {"question": question, "reasoning": "One thinks about it.", "answer": answer}
        case ("items", "question", "steps", "answer"):
            items = {"question": question, "steps": [quote] * 2, "answer": "seven"}
        case ("items", "question", "options"):
            items = {"question": question, "options": ["six", "seven", "eight", "nine"]}
        case ("items", "question"):
            items = {"question": question}
        case ("turns", *_):
            speakers = ["user", "assistant"] * 3
            return {"turns": [{"speaker": who, "text": WORDS[n * 600 :][:600]} for n, who in enumerate(speakers)]}
        case ("task", *_):
            return {"task": "Count the vowels.", "function": "count_vowels", "signature": "def count_vowels(text):"}
        case ("claims", *_):
            return {"claims": [quote]}
        case ("faults", "score"):
            return {"faults": ["a gap"], "score": 3 if WORDS in prompt else 4}
        case _:
            return {"findings": "good", "score": 4}
    return {"items": [items | {"question": f"{question} ({number})"} for number in range(60)]}
