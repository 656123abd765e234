"""Recipes of curation by name, and how one is found: `my_steps.py:my_recipe`, a function without arguments."""

from __future__ import annotations

from collections.abc import Callable

from megaphi.curation.recipe import Curation, check_curation
from megaphi.errors import InputError, did_you_mean
from megaphi.own_code import is_own_code, load_own, running, split_name
from megaphi.recipes.synthetic import synthetic_code, synthetic_problems, synthetic_textbooks
from megaphi.recipes.web_pages import web_crawl, web_pages, web_pages_graded

CURATIONS: dict[str, Callable[[], Curation]] = {
    function.__name__: function
    for function in (web_pages, web_crawl, web_pages_graded, synthetic_problems, synthetic_textbooks, synthetic_code)
}
"""Name -> the function that returns it."""


def load_curation(name: str) -> Curation:
    """Call the recipe `name` or `file.py:function`.

    Raises:
        InputError: there is no such recipe, its file cannot be run, or what it gives is no Curation that could be.
    """
    if is_own_code(name):
        function = load_own(name, what="recipe")
        path, _ = split_name(name, what="recipe")
        return check_curation(running(path, f"recipe {name!r}", function), recipe=name)
    if name not in CURATIONS:
        known = f"Recipes: {', '.join(CURATIONS)}, or" if CURATIONS else "Give"
        raise InputError(
            f"unknown recipe of curation {name!r}.{did_you_mean(name, CURATIONS)} {known} file.py:function"
        )
    return check_curation(CURATIONS[name](), recipe=name)
