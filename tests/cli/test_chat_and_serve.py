"""The verbs that generate, around a model that answers by a hash: piped talks, commands, a server from start to end."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from megaphi.cli import chat, main, serve
from megaphi.conversation import Conversation, Message
from megaphi.generation.text import render_prompt
from megaphi.parallel import launcher
from megaphi.sampling import Sampling
from tests.conversion.random_models import SHAPES, random_folder
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens
from tests.generation.server.served import ask, opened, tokenizer
from tests.test_house import ROOT

ALPHABET = tokenizer().encode(" one two three four five")
RULES = Sampling(max_tokens=9, temperature=0.5, top_p=0.95, seed=4)
WORDS = ("--seed", "4", "--temperature", "0.5", "--max-tokens", "9")


def right_answer(*said: Message) -> str:
    ids = render_prompt(Conversation(said), tokenizer())
    turn = len([message for message in said if message.role != "system"])
    return tokenizer().decode(expected_tokens(ids, RULES, sample=turn, alphabet=ALPHABET))


@pytest.fixture
def talk(monkeypatch, capsys):
    """Pipe lines into `megaphi chat`; returns (answers, what was said beside them)."""

    def run(lines: str, *words: str, context: int = 512) -> tuple[str, str]:
        generator = FakeGenerator(alphabet=ALPHABET, context=context)
        monkeypatch.setattr(chat, "on_first_rank", lambda arguments, work: work(opened(generator)))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode("utf-8", "surrogateescape"))))
        assert main(["chat", "model", *WORDS, *words]) == 0
        assert generator.is_idle
        return tuple(capsys.readouterr())

    return run


def test_a_piped_talk_prints_the_answers_and_remembers(talk):
    first, second = Message("user", "hello"), Message("user", "and?")
    one = right_answer(first)
    two = right_answer(first, Message("assistant", one), second)
    assert talk("hello\n\nand?\n") == (f"{one}\n{two}\n", "")


def test_commands(talk):
    hello, brief = Message("user", "hello"), Message("system", "Be brief.")
    alone, briefly = right_answer(hello), right_answer(brief, hello)
    out, err = talk("hello\n/reset\nhello\n/system Be brief.\nhello\n/rest\n/quit\nhello\n")
    assert out == f"{alone}\n{alone}\n{briefly}\n"
    assert "Did you mean '/reset'?" in err
    assert talk("hello\n", "--system", "Be brief.")[0] == f"{briefly}\n"


def test_a_talk_that_outgrows_the_context_says_so_and_goes_on(talk):
    out, err = talk("hello " * 60 + "\nhello\n", context=40)
    assert out == right_answer(Message("user", "hello")) + "\n"
    assert "the context 40: /reset it" in err


def test_bytes_that_are_no_text_do_not_end_a_talk(talk):
    assert talk("\udcff\n")[0].count("\n") == 1


def test_an_interrupt_leaves_the_answer_and_keeps_what_came(monkeypatch, capsys):
    generator = FakeGenerator(alphabet=ALPHABET)
    step = generator.step

    def step_and_interrupt():
        news = step()
        if generator.steps == 3:
            signal.raise_signal(signal.SIGINT)
        return news

    generator.step = step_and_interrupt
    one = chat.Talk(generator, tokenizer(), RULES)
    handler = signal.getsignal(signal.SIGINT)  # ignored, in a job in the background
    chat._answer(one, "hello")
    assert one.said[1].content == capsys.readouterr().out[:-1]
    assert right_answer(one.said[0]).startswith(one.said[1].content)
    assert generator.is_idle
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["chat", "x", "--temperature", "-1"], "temperature=-1.0"),
        (["chat", "x", "--batch", "0"], "--batch 0: must be at least 1"),
        (["serve", "x", "--port", "70000"], "--port 70000: must lie between 0 and 65535"),
        (["serve", "x", "--max-waiting", "0"], "--max-waiting 0: must be at least 1"),
        (["serve", "x", "--api-key-file", "nowhere"], "--api-key-file nowhere: cannot be read"),
        (["serve", "nowhere", "--tensor", "2"], "nowhere"),
        (["serve", "x", "--host", "no such host"], "cannot listen at no such host port 8000"),
    ],
)
def test_bad_options_are_one_line(words, message, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_port_that_is_taken_is_told_before_the_model_is_opened(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert main(["serve", "x", "--port", str(other.getsockname()[1])]) == 2
    assert "choose another" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["serve", "chat"])
def test_stages_need_not_divide_the_layers(verb, monkeypatch, tmp_path, capsys):
    random_folder(tmp_path / "model", SHAPES["3 heads per group"], scale=0.4)
    started = []
    monkeypatch.setattr(launcher, "start_processes", lambda command, processes: started.append(processes) or 0)
    assert main([verb, str(tmp_path / "model"), "--pipeline", "3"]) == 0
    assert started == [3]
    assert main([verb, str(tmp_path / "model"), "--pipeline", "5"]) == 2
    assert "layout.pipeline=5 does not divide model.layers=4" in capsys.readouterr().err


def test_only_the_first_rank_listens(monkeypatch):
    """The address may be one that its host alone has, as 203.0.113.1, which is nobody's."""
    monkeypatch.setattr(serve, "on_first_rank", lambda arguments, work: 0)
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "203.0.113.1")
    assert main(["serve", "model", "--tensor", "2", "--host", "203.0.113.1"]) == 0


def test_a_missing_package_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert main(["serve", "x"]) == 2
    assert "serving needs fastapi: pip install 'megaphi[serve]'" in capsys.readouterr().err


def test_the_model_has_its_folders_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for given, name in ((None, tmp_path.name), ("mine", "mine")):
        made = []
        monkeypatch.setattr("megaphi.generation.server.app.create_app", made.append)
        parser = argparse.ArgumentParser()
        serve.add_arguments(parser)
        arguments = parser.parse_args([".", "--host", "me", *(["--model-name", given] if given else [])])
        serve.make_app(opened(FakeGenerator()), arguments, None, hosts=frozenset())
        assert made[0].model == name


PROGRAM = """
from megaphi.cli import main, serve
from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import opened
serve.on_first_rank = lambda arguments, work: work(opened(FakeGenerator(slots=arguments.batch)))
raise SystemExit(main(["serve", "some/model", "--port", "0", "--host", "0.0.0.0"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_from_start_to_end(number):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ}
    )
    with process:
        lines = []
        while not (lines and "serving at" in lines[-1]):
            lines.append(process.stderr.readline())
            assert lines[-1], "the server ended"
        assert "everybody who can reach 0.0.0.0" in lines[0]
        port = re.search(r":(\d+)$", lines[-1])[1]
        while True:
            try:
                answer = ask(f"http://127.0.0.1:{port}/v1/completions", {"prompt": "a", "model": "model"})
                break
            except OSError:
                assert process.poll() is None
        assert answer.status == 200
        process.send_signal(number)
        assert process.wait(20) == 0
        assert process.stderr.read() == ""
