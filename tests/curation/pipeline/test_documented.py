"""The step and the recipe of docs/curation/pipeline.md do what the page says."""

from __future__ import annotations

import json

from megaphi.cli import main
from tests.curation.pipeline.conftest import records_of
from tests.test_documentation import save_recipes
from tests.test_house import ROOT


def test_the_filter_of_the_page_runs(tmp_path, monkeypatch, capsys):
    save_recipes(ROOT / "docs" / "curation" / "pipeline.md", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages").mkdir()
    texts = {"long": "word " * 60, "short": "word " * 10}
    records = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (tmp_path / "pages" / "a.jsonl").write_text("\n".join(records))
    assert main(["curate", "my_steps.py:my_recipe", "--processes", "1"]) == 0
    (kept,) = records_of(tmp_path / "runs" / "pages" / "documents")
    assert (kept["id"], kept["metadata"], kept["history"]) == ("long", {"words": 60}, ["enough_words"])
    (rejected,) = records_of(tmp_path / "runs" / "pages" / "rejected")
    assert (rejected["reason"], rejected["detail"]) == ("few_words", "10 words, fewer than 50")
    assert "1 few_words" in capsys.readouterr().out
    assert main(["curate", "my_steps.py:my_recipe", "--processes", "1", "steps.enough_words.minimum=5"]) == 0
    assert len(records_of(tmp_path / "runs" / "pages" / "documents")) == 2
