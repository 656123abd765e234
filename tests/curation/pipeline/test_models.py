"""Models that steps ask for by name: a server's with its own key, a checkpoint that is loaded once, what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from megaphi.curation.pipeline.models import ModelOpener
from megaphi.curation.pipeline.run import curate
from megaphi.errors import InputError
from megaphi.sampling import Sampling
from tests.conversion.random_models import SHAPES, random_folder
from tests.curation.pipeline.conftest import records_of
from tests.curation.pipeline.model_runs import one_checkpoint
from tests.curation.pipeline.my_steps import recipe
from tests.generation.server.fake_generator import FakeGenerator
from tests.generation.server.served import served
from tests.gloo_world import run_in_world


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """Adds a model's answer to the metadata."""

    VERSION: ClassVar[int] = 1

    model: str

    def open(self, context):
        sampler = context.open_sampler(self.model)
        rules = Sampling(max_tokens=3)
        return lambda document: document.known(answer=list(sampler.sample([[5, 6, 7]], rules)[0][0].tokens))


def test_a_step_asks_a_server_with_its_key(source, tmp_path):
    with served(FakeGenerator(), api_key="s3cret") as (url, _):
        host = url.removeprefix("http://")
        curation = replace(recipe(), steps=(Answers(model=f"{url}/v1=tiny"),))
        with pytest.raises(InputError, match="status 401"):
            curate(curation, open_sampler=ModelOpener(), show_progress=False)
        curate(curation, open_sampler=ModelOpener(api_keys=((host, "s3cret"),)), show_progress=False)
    answers = [record["metadata"]["answer"] for record in records_of(tmp_path / "run" / "documents")]
    assert len(answers) > 100
    assert all(len(answer) == 3 for answer in answers)


def test_a_checkpoint_is_loaded_once_and_a_second_one_is_refused(tmp_path):
    for name, scale in (("one", 0.4), ("two", 0.6)):
        random_folder(tmp_path / name, SHAPES["3 heads per group"], scale=scale)
    found = run_in_world(one_checkpoint, str(tmp_path / "one"), str(tmp_path / "two"), processes=1)[0]
    assert found["once"]
    assert found["identity"]
    assert [len(tokens) for one in found["found"] for tokens in one] == [4, 4]
    assert "is loaded already, and a process holds one" in found["refused"]


def test_names_that_are_none(source):
    with pytest.raises(InputError, match="which model of that server"):
        ModelOpener()("http://127.0.0.1:1/v1")
    assert "s3cret" not in repr(ModelOpener(api_keys=(("host", "s3cret"),)))
    with pytest.raises(InputError, match="this run was started without any"):
        curate(replace(recipe(), steps=(Answers(model="m"),)), show_progress=False)
