"""A plan as something to start: the fields of `megaphi train`, and a recipe file that sets them.

The file is a recipe like any other: `megaphi train planned.py:planned`.
"""

from __future__ import annotations

from megaphi.planning.search.space import PlanChoice

RECIPE_FILE = "planned.py"
_RECIPE = '''"""{title}

Written by `megaphi plan`. The fields below change the recipe; edit them, or give others on the command line.
"""

from megaphi.config import override
from megaphi.engine.run_config import RunConfig
from megaphi.recipes import load_recipe

FIELDS = (
{fields}
)


def planned() -> RunConfig:
    return override(load_recipe({recipe!r}), FIELDS)
'''


def fields_of(choice: PlanChoice) -> tuple[str, ...]:
    """field=value of everything that a plan decides."""
    layout = choice.layout
    return (
        f"layout.tensor={layout.tensor}",
        f"layout.pipeline={layout.pipeline}",
        f"layout.virtual_pipeline={layout.virtual_pipeline}",
        f"layout.stage_layers={','.join(map(str, layout.stage_layers))}",
        f"layout.context={layout.context}",
        f"layout.sequence_parallel={str(layout.sequence_parallel).lower()}",
        f"batch.micro_batch={choice.micro_batch}",
        f"recompute={choice.recompute}",
    )


def recipe_text(recipe: str, fields: tuple[str, ...], *, title: str) -> str:
    """The recipe file; `recipe` is found from the folder in which the job starts."""
    lines = "\n".join(f"    {field!r}," for field in fields)
    return _RECIPE.format(title=title, fields=lines, recipe=recipe)
