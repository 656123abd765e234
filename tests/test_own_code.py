"""The user's own Python: recipes and objectives named by file, and the one message for whatever goes wrong in them."""

from __future__ import annotations

import importlib.util
import re
from functools import partial
from pathlib import Path

import pytest

from megaphi import own_code
from megaphi.cli import main
from megaphi.config import override, to_plain
from megaphi.engine.run_config import check
from megaphi.errors import InputError
from megaphi.files import write_json
from megaphi.other_names import _FIELDS, our_name
from megaphi.recipes import load_recipe
from megaphi.stages.finetune import Finetune
from tests.gloo_world import run_in_world
from tests.stages.stage_runs import sft_run, stage_here, write_conversations
from tests.test_config import every_field

BROKEN = {
    "import": ("import nothing_of_this_name\ndef run(): ...\n", "line 1: ModuleNotFoundError: No module named"),
    "a module that has moved": (
        "x = 1\nfrom megaphi.data.mixture import Source\n",
        "line 2: ModuleNotFoundError: No module named 'megaphi.data.mixture': import megaphi.data.order.mixture",
    ),
    "a module that has moved, out of its package": (
        "from megaphi.parallel import place\n",
        "import megaphi.parallel.rendezvous.place",
    ),
    "syntax": ("x = 1\ndef run(:\n    pass\n", "line 2: invalid syntax"),
    "exception at import": ("x = 1\ny = 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
    "exception in the recipe": ("def run():\n    x = {}\n    return x['a']\n", "line 3: KeyError: 'a'"),
    "exception in what it calls": ("import json\ndef run():\n    return json.loads('[')\n", "line 3: JSONDecodeError"),
    "exit": ("def run():\n    raise SystemExit(0)\n", "line 2: SystemExit: 0"),
    "wrong thing": ("def run():\n    return {'steps': 3}\n", "returned dict, expected a RunConfig"),
    "nothing": ("def run():\n    pass\n", "returned NoneType, expected a RunConfig"),
    "arguments": ("def run(steps):\n    pass\n", "TypeError: run.. missing 1 required positional argument"),
    "no such name": ("def runs():\n    pass\n", "has no function 'run'. Did you mean 'runs'?"),
    "no function": ("run = 3\n", "has no function 'run'"),
    "binary": ("\0", "null bytes"),
    "a field too many": (
        "from megaphi.engine.learning_rate import Optimizer\ndef run():\n    return Optimizer(lr=1)\n",
        "line 3: TypeError: .*unexpected keyword argument 'lr'",
    ),
    "a wrong type": (
        "from dataclasses import replace\nfrom megaphi.recipes.quickstart import quickstart_pretrain as q\n"
        "def run():\n    return replace(q(), seed='7')\n",
        "seed='7': expected a whole number",
    ),
    "a wrong number": (
        "from dataclasses import replace\nfrom megaphi.recipes.quickstart import quickstart_pretrain as q\n"
        "def run():\n    return replace(q(), optimizer=replace(q().optimizer, eps=float('nan')))\n",
        "optimizer.eps=nan: must be a finite number",
    ),
}


def test_every_module_that_has_moved_is_where_the_table_says() -> None:
    for old, new in own_code._MOVED.items():
        assert importlib.util.find_spec(new.partition(",")[0]), new
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(old)


@pytest.mark.parametrize("kind", BROKEN)
def test_whatever_is_wrong_in_a_recipe_is_one_message_and_exit_code_2(kind, tmp_path, capsys):
    text, message = BROKEN[kind]
    path = tmp_path / "my_recipe.py"
    path.write_text(text)
    assert main(["train", f"{path}:run", "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert str(path) in said
    assert re.search(message.replace("?", r"\?"), said), said


def test_a_recipe_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "beside_it.py").write_text("STEPS = 77\n")
    (tmp_path / "mine.py").write_text(
        "from dataclasses import replace\nfrom beside_it import STEPS\n"
        "from megaphi.recipes.quickstart import quickstart_pretrain as q\n"
        "def run():\n    return replace(q(), training=replace(q().training, steps=STEPS))\n"
    )
    assert load_recipe(f"{tmp_path / 'mine.py'}:run").training.steps == 77
    with pytest.raises(InputError, match=r"there is no file .*yours\.py"):
        load_recipe(f"{tmp_path / 'yours.py'}:run")
    with pytest.raises(InputError, match=r"name a function too, as in mine\.py:my_recipe"):
        load_recipe("mine.py")


@pytest.mark.parametrize(
    ("field", "answer"),
    [
        ("optimizer.lr=1", "optimizer.learning_rate"),
        ("optimizer.min_lr=1", "optimizer.final_fraction, a fraction"),
        ("lr_warmup_iters=1", "optimizer.warmup_steps"),
        ("batch.micro_batch_size=1", "batch.micro_batch"),
        ("training.seq_len=1", "batch.sequence_length"),
        ("batch.gradient_accumulation_steps=1", "batch.global_batch, which is micro_batch x replicas x accumulation"),
        ("layout.tensor_model_parallel_size=2", "layout.tensor"),
        ("per_device_train_batch_size=2", "batch.micro_batch"),
        ("optimizer.max_grad_norm=1", "optimizer.clip_gradient_norm"),
        ("saving.save_interval=1", "saving.every"),
        ("bf16=true", "precision.parameters=bfloat16"),
    ],
)
def test_names_of_other_trainers_are_answered_with_ours(field, answer):
    run = load_recipe("quickstart_pretrain")
    with pytest.raises(InputError, match=rf"unknown field '{field.partition('=')[0]}'\. That is {answer}"):
        override(run, [field])


def test_every_answer_is_a_field_that_there_is():
    fields = every_field()
    for answer in _FIELDS:
        assert re.split(r"[=,]", answer)[0] in fields, answer
    assert our_name("--micro-batch-size") == "batch.micro_batch"


def test_an_option_of_another_trainer_is_answered_with_the_field(capsys):
    with pytest.raises(SystemExit):
        main(["train", "quickstart_pretrain", "--lr", "1e-4", "--seq-length=64", "--unknown"])
    said = capsys.readouterr().err
    assert "--lr is optimizer.learning_rate; --seq-length is batch.sequence_length" in said


def test_a_configuration_file_is_a_recipe(tmp_path):
    run = check(load_recipe("quickstart_pretrain"), world_size=2)
    write_json(tmp_path / "config.json", to_plain(run))
    assert load_recipe(str(tmp_path / "config.json")) == run
    write_json(tmp_path / "config.json", to_plain(run) | {"seed": -1})
    with pytest.raises(InputError, match=r"config\.json: seed=-1: must be from 0 to"):
        load_recipe(str(tmp_path / "config.json"))
    write_json(tmp_path / "config.json", {"vocab_size": 3})
    with pytest.raises(InputError, match=r"config\.json: unknown field 'vocab_size'\. That is model\.vocabulary here"):
        load_recipe(str(tmp_path / "config.json"))
    for content, message in (("{", "not valid JSON"), ("[]", "expected an object")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(InputError, match=message):
            load_recipe(str(tmp_path / "config.json"))
    with pytest.raises(InputError, match="elsewhere"):
        load_recipe(str(tmp_path / "elsewhere" / "config.json"))


OBJECTIVE = """
from megaphi.engine.objective import NextToken

class Halved(NextToken):
    '''The cross-entropy, halved, so that its loss shows that it was used.'''
    def forward(self, batch, chunk, device):
        output, loss = super().forward(batch, chunk, device)
        def halved(output):
            total, count, report = loss(output)
            report["sums"][0] /= 2
            return total / 2, count, report
        return output, halved

class Nothing: ...

class Forgetful(NextToken):
    beforehand = NextToken()
"""


def test_an_objective_of_ones_own_is_used_and_belongs_to_the_run(tmp_path):
    """SFT on two epochs, then again from its own config.json: the same losses; another file of that name: refused."""
    path = tmp_path / "mine.py"
    path.write_text(OBJECTIVE)
    write_conversations(tmp_path / "data" / "train.jsonl", 20, seed=1)
    write_conversations(tmp_path / "data" / "held_out.jsonl", 5, seed=2)
    plain = sft_run(tmp_path / "plain", tmp_path / "data", epochs=0.8)
    own = override(sft_run(tmp_path / "own", tmp_path / "data", epochs=0.8), [f"task.objective={path}:Halved"])
    halved, whole = go(own), go(plain)
    assert halved[0]["loss"] == pytest.approx(whole[0]["loss"] / 2, rel=1e-6)
    again = override(load_recipe(str(tmp_path / "own" / "config.json")), [f"folder={tmp_path / 'again'}"])
    assert isinstance(again.task, Finetune)
    assert again.task.objective is not None
    assert re.fullmatch(rf"{re.escape(str(path))}:Halved@[0-9a-f]{{16}}", again.task.objective)
    assert [record["loss"] for record in go(again)] == [record["loss"] for record in halved]
    path.write_text(OBJECTIVE + "# changed\n")
    with pytest.raises(InputError, match=r"mine\.py is not the file that this run was trained with"):
        check(again, world_size=1)
    check(override(again, [f"task.objective={path}:Halved"]), world_size=1)


def go(run):
    found = run_in_world(partial(stage_here, run), processes=1)[0]
    assert found["message"] is None
    return found["records"]


def test_an_objective_that_is_none_is_refused_at_the_dry_run(tmp_path, capsys):
    path = Path(tmp_path / "mine.py")
    path.write_text(OBJECTIVE)
    for name, message in {
        f"{path}:Nothing": "gives a Nothing: expected an object with names",
        f"{path}:Missing": "has no class 'Missing'",
        f"{path}:Forgetful": "has beforehand, but no method knowing(means)",
        f"{path}": "name a class too",
        f"{tmp_path}/other.py:Halved": "there is no file",
    }.items():
        assert main(["train", "quickstart_pretrain", "--dry-run", f"task.objective={name}"]) == 2
        assert message in capsys.readouterr().err
