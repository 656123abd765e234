"""Samplers on a command line: models one after the other in any layout, servers, keys, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from megaphi.cli.sampler_option import OpenSamplers, sampler_place, with_samplers
from megaphi.errors import InputError
from tests.cli.sampler_runs import PROMPTS, RULES, options, through_two_models
from tests.conversion.random_models import SHAPES, random_folder
from tests.generation.server.fake_generator import FakeGenerator, expected_tokens
from tests.generation.server.served import served
from tests.gloo_world import run_in_world


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("models")
    for name, scale in (("one", 0.4), ("two", 0.6)):
        random_folder(folder / name, SHAPES["3 heads per group"], scale=scale)
    return str(folder / "one"), str(folder / "two")


@pytest.fixture(scope="module")
def alone(models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    journal = tmp_path_factory.mktemp("journal") / "answers.jsonl"
    return run_in_world(through_two_models, *models, [], str(journal), processes=1)[0]


def test_models_are_opened_one_after_the_other(alone: dict[str, Any]) -> None:
    first, again, second, once_more = alone["found"]
    assert alone["opened"] == ["one", "two", "one"]
    assert first == again == once_more
    assert first != second
    assert alone["code"] == 7
    assert alone["ended"] == 16


@pytest.mark.parametrize("words", [["--data", "2"], ["--pipeline", "2"]], ids=["DP2", "PP2"])
def test_every_rank_opens_the_same_models(
    models: tuple[str, str], alone: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    first, second = run_in_world(through_two_models, *models, words, str(tmp_path / "a.jsonl"), processes=2)
    assert first["found"] == alone["found"]
    assert first["opened"] == second["opened"] == ["one", "two", "one"]
    assert (first["code"], second["code"], second["found"]) == (7, 0, [])


def test_a_server_is_asked_with_its_own_key_only(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("s3cret\n")
    (tmp_path / "key").chmod(0o600)

    def answers(url: str, *words: str) -> Any:
        found = []

        def work(samplers: OpenSamplers) -> int:
            place = sampler_place(f"{url}/v1=tiny", option="--judge")
            found.extend(samplers.open(place).sample(PROMPTS, RULES))
            return 0

        assert with_samplers(options(*words), [sampler_place(f"{url}/v1=tiny", option="--judge")], work) == 0
        return [answer.tokens for (answer,) in found]

    with served(FakeGenerator(), api_key="s3cret") as (url, _):
        host = url.removeprefix("http://")
        for name in (host, "127.0.0.1"):
            found = answers(url, "--api-key-file", f"{name}={tmp_path / 'key'}")
            assert found == [tuple(expected_tokens(prompt, RULES)) for prompt in PROMPTS]
        with pytest.raises(InputError, match="status 401"):
            answers(url, "--api-key-file", f"other.example.org={tmp_path / 'key'}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--judge: the name of a sampler is empty"),
        ("http://host:80/v1", "--judge http://host:80/v1: which model of that server?"),
        ("http://host:80/v1=", "which model"),
        ("http://:x/v1=m", "is not the address of a server"),
    ],
)
def test_a_name_that_is_none_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sampler_place(text, option="--judge")
    assert sampler_place("downloads/phi-4", option="--judge").path == "downloads/phi-4"
    assert sampler_place("https://h/v1/=a=b", option="--judge")[1:] == ("https://h/v1", "a=b")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tensor", "2"], "--tensor 2: only servers are named"),
        (["--concurrency", "0"], "--concurrency 0: must be at least 1"),
        (["--timeout-seconds", "nan"], "--timeout-seconds nan: must be above 0"),
        (["--api-key-file", "key.txt"], "--api-key-file key.txt: write HOST=FILE"),
        (["--api-key-file", "host=nowhere"], "--api-key-file nowhere: cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_one_message(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_samplers(options(*words), [sampler_place("http://h/v1=m", option="--judge")], lambda samplers: 0)
