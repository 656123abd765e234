"""`megaphi evaluate` with items that are made and answers that are judged: lengths, contexts, a judge of no sense."""

from __future__ import annotations

from pathlib import Path

from megaphi.evaluation.result_files import read_evaluation
from megaphi.tokenizer.huggingface import export_tokenizer
from megaphi.tokenizer.phi4 import load_tokenizer
from tests.conversion.random_models import SHAPES, random_folder
from tests.warm_megaphi import run_megaphi

QUESTIONS = Path(__file__).parents[3] / "examples" / "guided_questions" / "manifest.json"


def test_recall_at_two_lengths_and_a_judge_that_talks_nonsense(tmp_path: Path) -> None:
    """The model is random, so it recalls nothing, and as a judge gives no verdict that can be read."""
    random_folder(tmp_path / "model", SHAPES["3 heads per group"], scale=0.4, max_position_embeddings=1_024)
    export_tokenizer(load_tokenizer(352), tmp_path / "model", model_max_length=1_024)
    words = ["evaluate", tmp_path / "model", "--tasks", "recall_small_base,guided", "--manifest", QUESTIONS]
    more = ["--lengths", "300,1000,1100", "--limit", 2, "--max-tokens", 8, "--judge", tmp_path / "model"]
    done = run_megaphi(*words, *more, "--output", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    found = read_evaluation(tmp_path / "results")
    recall, guided = found.tasks["recall_small_base"], found.tasks["guided"]
    assert [one.group for one in recall.responses] == ["300", "300", "1000", "1000", "1100", "1100"]
    for one in recall.responses[:4]:
        assert one.prompt.endswith('": "')
        assert one.details["tokens"] == len(load_tokenizer(352).encode(one.prompt)) <= int(one.group) - 16
        assert one.scores["exact"] == 0
    assert {one.problem for one in recall.responses[4:]} == {"not answered"}
    assert [one.problem for one in guided.responses] == ["judge failed"] * 2
    assert guided.derived == {"weighted_kappa": 0}
    assert guided.items_in_files == 44
    assert "300" in (tmp_path / "results" / "report.md").read_text()
