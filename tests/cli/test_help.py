"""`--help` teaches, and is instant: neither torch nor Megatron is imported for it."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from megaphi.cli import VERBS, main
from tests.test_house import ROOT

SLOW = ("torch", "megatron", "numpy", "transformers", "matplotlib", "tiktoken", "pyarrow")


def test_help_takes_less_than_three_tenths_of_a_second_of_processor_time():
    used = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "megaphi", "--help"], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used) < 0.3


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS), ["train", "nonsense"]])
def test_no_slow_package_is_imported(words):
    program = "import sys\nfrom megaphi.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    program += "print('imported:', *sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", program, *words], check=True, capture_output=True, text=True, cwd=ROOT
    )
    imported = result.stdout.rpartition("imported:")[2].split()
    assert "argparse" in imported
    if words[0] != "train" or "--help" in words:
        assert not set(SLOW) & set(imported)
    else:  # a recipe is made of plain dataclasses that need numpy at most
        assert not set(SLOW) - {"numpy"} & set(imported)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_an_example_that_its_own_parser_takes(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"  megaphi {verb} " in text or f"  megaphi {verb}\n" in text
    assert len(text.partition("positional arguments")[0].splitlines()) > 4


def test_every_field_is_listed_with_its_meaning(capsys):
    assert main(["train", "phi4_14b_pretrain", "--fields"]) == 0
    text = capsys.readouterr().out
    assert "layout.tensor=1\n    Ranks that share every matrix" in text
    assert "task.mixture.sources.synthetic.weight=0.4\n" in text
