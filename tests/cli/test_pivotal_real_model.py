"""`megaphi pivotal judge` with a model: it answers, judges its answers within the schema, and two ranks replay it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.conversion.random_models import SHAPES, random_folder
from tests.warm_megaphi import run_megaphi

WORDS = """--model model --judge model --tokenizer phi4 --samples 3 --max-tokens 300 --temperature 1.5
    --judge-temperature 1.2 --judge-max-tokens 250 --ties shorter --journal answers.jsonl""".split()


def test_a_model_judges_itself_and_two_ranks_write_the_same_bytes(tmp_path: Path) -> None:
    """The weights are random, so the answers are noise; the grammar makes judgements of them all the same."""
    random_folder(tmp_path / "model", SHAPES["3 heads per group"], scale=0.2, max_position_embeddings=8192)
    prompts = [{"prompt": f"Why {number}?", "id": f"q{number}"} for number in range(3)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    first = run_megaphi("pivotal", "judge", "prompts.jsonl", *WORDS, "--output", "one", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("one/report.md: 3 prompts, 9 responses")
    judged = [json.loads(line) for line in (tmp_path / "one" / "judged.jsonl").read_text().splitlines()]
    left_out = [json.loads(line) for line in (tmp_path / "one" / "left_out.jsonl").read_text().splitlines()]
    assert judged
    assert all(1 <= item["judgements"][0]["accuracy"] <= 5 for item in judged)
    lost = {item["name"] for item in left_out if item["name"].count("/") == 2}
    unpaired = {item["name"] for item in left_out if item["name"].count("/") == 0}
    everything = {f"q{number}/0/{sample}" for number in range(3) for sample in range(3)}
    missing = everything - lost - {item["name"] for item in judged}
    assert {name.split("/")[0] for name in missing} <= unpaired  # a prompt with one response is named, not judged
    assert Counter(item["name"] for item in judged).most_common(1)[0][1] == 1
    journal = (tmp_path / "answers.jsonl").read_bytes()
    again = run_megaphi("pivotal", "judge", "prompts.jsonl", *WORDS, "--output", "two", "--data", "2", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "answers.jsonl").read_bytes() == journal
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
