"""Every published run as a function that returns its whole configuration, and how a recipe is found by name.

A recipe is named as below, those of the 14B also with a number of GPUs (`phi4_14b_sft@64`, see phi4_14b_sizes.py), or
as `my_file.py:my_recipe`, a function of your own without arguments, or it is the config.json of a run (in its folder,
and in every checkpoint), which is repeated so.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from megaphi.config import check_values, from_plain
from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError, did_you_mean, shortened
from megaphi.files import read_json
from megaphi.own_code import is_own_code, load_own, running, split_name
from megaphi.renamed_fields import with_new_names
from megaphi.stages.finetune import Finetune
from megaphi.stages.prefer import Prefer
from megaphi.stages.pretrain import Pretrain

RECIPES = {
    "phi4_14b_pretrain": "megaphi.recipes.phi4_14b",
    "phi4_14b_midtrain": "megaphi.recipes.phi4_14b_midtrain",
    "phi4_14b_sft": "megaphi.recipes.phi4_14b_post_training",
    "phi4_14b_dpo_pivotal": "megaphi.recipes.phi4_14b_post_training",
    "phi4_14b_dpo_judged": "megaphi.recipes.phi4_14b_post_training",
    "phi4_14b_sft_reasoning": "megaphi.recipes.phi4_14b_post_training",
    "phi4_7b_uniform": "megaphi.recipes.phi4_7b_mixtures",
    "phi4_7b_s": "megaphi.recipes.phi4_7b_mixtures",
    "phi4_7b_s_wr": "megaphi.recipes.phi4_7b_mixtures",
    "phi4_7b_s_w": "megaphi.recipes.phi4_7b_mixtures",
    "quickstart_pretrain": "megaphi.recipes.quickstart",
    "quickstart_midtrain": "megaphi.recipes.quickstart",
    "quickstart_sft": "megaphi.recipes.quickstart",
    "quickstart_dpo": "megaphi.recipes.quickstart",
    "quickstart_sums": "megaphi.recipes.quickstart",
    "quickstart_dpo_pivotal": "megaphi.recipes.quickstart",
}
"""Name -> module that holds the function of that name."""
TASKS = (Pretrain, Finetune, Prefer)
"""Tasks that a config.json may name, beside a class of the user's own."""


def load_recipe(name: str) -> RunConfig:
    """Call the recipe `name` or `file.py:function`, or read the configuration `.../config.json`.

    Raises:
        InputError: there is no such recipe, its file cannot be run, or what it gives is no RunConfig that could be.
    """
    if name.endswith(".json"):
        return _from_configuration(Path(name).expanduser())
    if is_own_code(name):
        function = load_own(name, what="recipe")
        path, _ = split_name(name, what="recipe")
        return _checked(running(path, f"recipe {name!r}", function), name)
    name, at, gpus = name.partition("@")
    if name not in RECIPES:
        raise InputError(
            f"unknown recipe {name!r}.{did_you_mean(name, RECIPES)} Recipes: {', '.join(RECIPES)}, or file.py:function,"
            " or a run's config.json"
        )
    run = _checked(getattr(importlib.import_module(RECIPES[name]), name)(), name)
    return _for_gpus(run, gpus) if at else run


def _for_gpus(run: RunConfig, gpus: str) -> RunConfig:
    from megaphi.recipes.phi4_14b_sizes import SIZES, sized

    if gpus not in map(str, SIZES):
        sizes = ", ".join(f"{run.recipe}@{size}" for size in SIZES)
        raise InputError(f"unknown recipe {run.recipe}@{shortened(gpus, 100)}: there are {sizes}")
    return sized(run, gpus=int(gpus))


def _from_configuration(path: Path) -> RunConfig:
    """The run that a config.json describes, as it was when it had been checked."""
    plain = read_json(path, what="configuration of a run")
    try:
        return from_plain(RunConfig, with_new_names(plain))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _checked(run: Any, name: str) -> RunConfig:
    if not isinstance(run, RunConfig):
        raise InputError(f"recipe {name!r} returned {type(run).__name__}, expected a RunConfig")
    try:
        return check_values(run)
    except InputError as error:
        raise InputError(f"recipe {name!r}: {error}") from None
