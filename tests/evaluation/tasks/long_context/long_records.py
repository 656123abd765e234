"""Records of every kind of long context, made of drawn words: none of their answers stands anywhere by chance."""

from __future__ import annotations

import random
from typing import Any

WORDS = "river stone harvest lantern meadow copper winter bridge saddle ribbon kettle orchard timber pebble".split()


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(WORDS) + str(draw.randrange(1_000)) for _ in range(count))


def rag_records(count: int, *, passages: int = 12) -> list[dict[str, Any]]:
    draw = random.Random(3)
    records = []
    for number in range(count):
        ctxs = [{"title": f"T{number} {place}", "text": words(draw, 30)} for place in range(passages)]
        ctxs[5] = {"title": "It", "text": f"{words(draw, 10)} and the Answer-{number:03d} is here {words(draw, 10)}"}
        ctxs[7] = {"title": "Again", "text": f"once more answer {number:03d}, {words(draw, 10)}"}
        ctxs[8] = {"title": "Next", "text": f"this is answer {(number + 1) % count:03d}, {words(draw, 10)}"}
        ctxs[9] = {"title": "Shared", "text": "this passage belongs to every question"}
        ctxs[10] = dict(ctxs[11])
        records.append({"question": f"Which is it, {number}?", "answers": [f"answer {number:03d}"], "ctxs": ctxs})
    return records


def rerank_records(count: int, *, passages: int = 12) -> list[dict[str, Any]]:
    draw = random.Random(4)
    return [
        {
            "qid": f"q{number}",
            "query": f"query {number}",
            "ctxs": [
                {"id": str(place), "text": words(draw, 25), "label": {0: 3, 4: 1, 9: 2}.get(place, 0)}
                for place in range(passages)
            ],
        }
        for number in range(count)
    ]


def labelled_records(count: int, *, seed: int, labels: int = 6) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [{"text": words(draw, 8), "label": f"label {number % labels}"} for number in range(count)]


def document_records(count: int, *, length: int = 1_500) -> list[dict[str, Any]]:
    draw = random.Random(5)
    records = []
    for number in range(count):
        evidence = f"the guest of room {number} was Doctor Number{number}"
        place = draw.randrange(length)
        text = f"{words(draw, place + 1)}. {evidence}.\n{words(draw, length - place)}"
        question, answers = f"Who was the guest of room {number}?", [f"Doctor Number{number}", "the doctor"]
        records.append({"context": text, "question": question, "answers": answers, "evidence": evidence})
    return records


def summary_records(count: int) -> list[dict[str, Any]]:
    draw = random.Random(6)
    return [{"document": words(draw, 1_500), "summary": words(draw, 40)} for _ in range(count)]
