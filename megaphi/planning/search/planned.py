"""A plan as something to start: the fields of `megaphi train`, and a recipe file that sets them.

The file is a recipe like any other: `megaphi train planned.py:planned`. The files that start it on a cluster lie beside
it, and name it by its whole path.
"""

from __future__ import annotations

from pathlib import Path

from megaphi.errors import InputError
from megaphi.own_code import is_own_code, split_name
from megaphi.planning.launch.job import ClusterJob
from megaphi.planning.search.space import PlanChoice, PlanQuestion

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


def job_of(question: PlanQuestion, folder: Path) -> ClusterJob:
    """The job that trains the recipe in `folder`, on whole nodes. Raises InputError."""
    devices, node = question.devices, question.device.node_devices
    if devices > node and devices % node:
        raise InputError(
            f"--write makes files for whole nodes of {node} GPUs, and {devices} are no whole number of them"
        )
    place = folder.expanduser().resolve()
    return ClusterJob(
        recipe=f"{place / RECIPE_FILE}:planned",
        folder=str(Path(question.run.folder).expanduser().resolve()),
        launch_folder=str(place),
        nodes=max(1, devices // node),
        gpus_per_node=min(node, devices),
    )


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


def found_anywhere(recipe: str) -> str:
    """The name of a recipe, with its file's whole path where it has a file: a job may start in another folder."""
    if is_own_code(recipe):
        path, function = split_name(recipe, what="recipe")
        return f"{Path(path).expanduser().resolve()}:{function}"
    return str(Path(recipe).expanduser().resolve()) if recipe.endswith(".json") else recipe


def recipe_text(recipe: str, fields: tuple[str, ...], *, title: str) -> str:
    """The recipe file; `recipe` is found from any folder."""
    lines = "\n".join(f"    {field!r}," for field in fields)
    return _RECIPE.format(title=title, fields=lines, recipe=recipe)
