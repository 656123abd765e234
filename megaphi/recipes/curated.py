"""The sources of a run from folders of `megaphi curate`: each folder's datasets under the name of a source.

    megaphi mixture phi4_7b_s_w --from runs/curated/* --write s_w.json
    megaphi train s_w.json

A folder stands for the source of its own name, or of the one in NAME=FOLDER; several may stand for one. It is a run of
curation whose documents are tokenised, or holds datasets itself, or is the prefix of one. Datasets whose names end in
`validation` are held out. Weights, and the unique tokens that are expected, stay the recipe's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from megaphi.config import user_path
from megaphi.data.storage.files.token_files import with_ending
from megaphi.engine.run_config import RunConfig
from megaphi.errors import InputError, did_you_mean
from megaphi.stages.pretrain import Pretrain, mixture_of

HELD_OUT = "validation"


@dataclass(slots=True)
class SourceDatasets:
    """Prefixes of the datasets of a source."""

    training: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)


def with_curated(run: RunConfig, given: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """The run with its sources read from these folders, and those of the folders that it does not read.

    Raises:
        InputError: a source has no folder or no training data, a folder has no dataset, a name is none of a source.
    """
    mixture = mixture_of(run)
    assert isinstance(run.task, Pretrain)
    names = [source.name for source in mixture.sources]
    found: dict[str, SourceDatasets] = {name: SourceDatasets() for name in names}
    unused = []
    for entry in given:
        name, folder = _name_and_folder(entry)
        if name in found:
            _add_datasets(found[name], folder)
        elif "=" in entry:
            raise InputError(f"{entry}: {run.recipe} has no source {name!r}.{did_you_mean(name, names)}")
        else:
            unused.append(entry)
    if lacking := [name for name in names if not found[name].training]:
        raise InputError(
            f"{run.recipe} reads the sources {', '.join(names)}, and no folder is given for {', '.join(lacking)}:"
            f" name it as {lacking[0]}=FOLDER"
        )
    sources = tuple(
        replace(
            source,
            paths=tuple(found[source.name].training),
            validation_paths=tuple(found[source.name].validation),
            dtype=None,
            document_end=None,
        )
        for source in mixture.sources
    )
    return replace(run, task=replace(run.task, mixture=replace(mixture, sources=sources))), unused


def _name_and_folder(entry: str) -> tuple[str, Path]:
    name, separator, folder = entry.partition("=")
    path = Path(user_path(folder if separator else entry))
    return (name if separator else path.name), path


def _add_datasets(source: SourceDatasets, folder: Path) -> None:
    """Add the datasets of a folder to those of its source. Raises InputError if it has none."""
    if with_ending(folder, ".idx").exists():
        prefixes = [folder]
    else:
        places = (sorted(place.glob("*.idx")) for place in (folder / "documents", folder))
        prefixes = [path.with_suffix("") for path in next(filter(None, places), [])]
    if not prefixes:
        raise InputError(_no_dataset(folder))
    for prefix in prefixes:
        (source.validation if prefix.name.endswith(HELD_OUT) else source.training).append(str(prefix))


def _no_dataset(folder: Path) -> str:
    if not folder.is_dir():
        return f"no such folder: {folder}"
    if (folder / "documents").is_dir():
        return (
            f"{folder} holds documents that are not tokenised: megaphi tokenize {folder}/documents --output"
            f" {folder}/tokens"
        )
    return f"{folder} holds neither a dataset (.bin/.idx) nor a finished run of megaphi curate"
