"""Every published run as a function that returns its whole configuration, and how a recipe is found by name.

A recipe is named as below, or as `my_file.py:my_recipe`, a function of your own without arguments.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from megaphi.config import check_values
from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError, did_you_mean

RECIPES = {
    "phi4_14b_pretrain": "megaphi.recipes.phi4_14b",
    "phi4_14b_sft": "megaphi.recipes.phi4_14b_post_training",
    "phi4_14b_dpo_pivotal": "megaphi.recipes.phi4_14b_post_training",
    "phi4_14b_dpo_judged": "megaphi.recipes.phi4_14b_post_training",
    "quickstart_pretrain": "megaphi.recipes.quickstart",
    "quickstart_sft": "megaphi.recipes.quickstart",
    "quickstart_dpo": "megaphi.recipes.quickstart",
}
"""Name -> module that holds the function of that name."""


def load_recipe(name: str) -> RunConfig:
    """Call the recipe `name` or `file.py:function`."""
    if ".py:" in name or name.endswith(".py"):
        return _checked(_from_file(name), name)
    if name not in RECIPES:
        raise InputError(
            f"unknown recipe {name!r}.{did_you_mean(name, RECIPES)} Recipes: {', '.join(RECIPES)}, or file.py:function"
        )
    return _checked(getattr(importlib.import_module(RECIPES[name]), name), name)


def _from_file(name: str) -> Callable[[], object]:
    path, _, function = name.rpartition(":")
    if not path or not function:
        raise InputError(f"recipe {name!r}: name a function too, as in {name}:my_recipe")
    if not Path(path).is_file():
        raise InputError(f"recipe {name!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"recipe_{Path(path).stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    if not callable(getattr(module, function, None)):
        known = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(f"{path} has no function {function!r}.{did_you_mean(function, known)}")
    return getattr(module, function)


def _checked(recipe: Callable[[], object], name: str) -> RunConfig:
    run = recipe()
    if not isinstance(run, RunConfig):
        raise InputError(f"recipe {name!r} returned {type(run).__name__}, expected a RunConfig")
    return check_values(run)
