"""Python of the user's own, named as `my_file.py:name`: a recipe, an objective, a dataset.

The file is run once per process, with its folder on the module path, so that it can import what lies beside it.
Whatever goes wrong in it (an import, the syntax, an exception, a name that is not there) is one message with file and
line, because the user's file is input, not the program.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from megaphi.errors import InputError, did_you_mean

Result = TypeVar("Result")
_LOADED: dict[Path, ModuleType] = {}
_MOVED = {
    "megaphi.conversion.carried_files": "megaphi.conversion.formats.side_files",
    "megaphi.conversion.gguf_header": "megaphi.conversion.formats.gguf.header",
    "megaphi.conversion.gguf_splits": "megaphi.conversion.formats.gguf.splits",
    "megaphi.conversion.gguf_tokenizer": "megaphi.conversion.formats.gguf.tokenizer",
    "megaphi.conversion.gguf_weights": "megaphi.conversion.formats.gguf.weights",
    "megaphi.conversion.huggingface_config": "megaphi.conversion.formats.huggingface.config",
    "megaphi.conversion.huggingface_keys": "megaphi.conversion.formats.huggingface.keys",
    "megaphi.conversion.huggingface_weights": "megaphi.conversion.formats.huggingface.weights",
    "megaphi.conversion.megatron_arguments": "megaphi.conversion.formats.megatron.arguments",
    "megaphi.conversion.megatron_weights": "megaphi.conversion.formats.megatron.weights",
    "megaphi.conversion.restricted_pickle": "megaphi.foreign.restricted_pickle",
    "megaphi.conversion.streaming": "megaphi.conversion.formats.streaming",
    "megaphi.conversion.torch_dist": "megaphi.conversion.formats.megatron.torch_dist",
    "megaphi.conversion.understood": "megaphi.conversion.formats.understood",
    "megaphi.conversion.weight_names": "megaphi.conversion.formats.weight_names",
    "megaphi.conversion.formats.megatron.restricted_pickle": "megaphi.foreign.restricted_pickle",
    "megaphi.data.documents": "megaphi.data.text.documents",
    "megaphi.data.indexed_dataset": "megaphi.data.storage.formats.indexed_dataset",
    "megaphi.data.indexed_dataset_writer": "megaphi.data.storage.indexed_dataset_writer",
    "megaphi.data.loader": "megaphi.data.loading.loader",
    "megaphi.data.mixture": "megaphi.data.order.mixture",
    "megaphi.data.packed.settings": "megaphi.stages.finetune",
    "megaphi.data.post_training": "megaphi.stages.finetune",
    "megaphi.data.storage.block_cache": "megaphi.data.storage.files.block_cache",
    "megaphi.data.storage.dataset_formats": "megaphi.data.storage.formats.dataset_formats",
    "megaphi.data.storage.flat_tokens": "megaphi.data.storage.formats.flat_tokens",
    "megaphi.data.storage.headerless_file": "megaphi.data.storage.formats.headerless_file",
    "megaphi.data.storage.indexed_dataset": "megaphi.data.storage.formats.indexed_dataset",
    "megaphi.data.storage.numpy_file": "megaphi.data.storage.formats.numpy_file",
    "megaphi.data.storage.own_dataset": "megaphi.data.storage.formats.own_dataset",
    "megaphi.data.storage.remote": "megaphi.data.storage.files.remote",
    "megaphi.data.storage.token_dataset": "megaphi.data.storage.formats.token_dataset",
    "megaphi.data.storage.token_files": "megaphi.data.storage.files.token_files",
    "megaphi.data.tokenize_documents": "megaphi.data.tokenize.pipeline",
    "megaphi.engine.checkpoint_files": "megaphi.checkpoint.format",
    "megaphi.engine.forward_only": "megaphi.engine.inference.forward_only",
    "megaphi.engine.loop": "megaphi.engine.training.loop",
    "megaphi.engine.optimizer": "megaphi.engine.model.optimizer",
    "megaphi.engine.progress": "megaphi.engine.run_sections, TrainingLength, ValidationPasses and Start",
    "megaphi.engine.train_step": "megaphi.engine.training.train_step",
    "megaphi.engine.training_model": "megaphi.engine.model.training_model",
    "megaphi.engine.weights_fingerprint": "megaphi.engine.model.weights_fingerprint",
    "megaphi.generation.endpoint": "megaphi.generation.client.endpoint",
    "megaphi.generation.engine": "megaphi.generation.decoding.inference_engine",
    "megaphi.generation.generate": "megaphi.generation.decoding.generate",
    "megaphi.generation.local": "megaphi.generation.local_sampler",
    "megaphi.parallel.differences": "megaphi.parallel.rendezvous.differences",
    "megaphi.parallel.interface": "megaphi.parallel.rendezvous.interface",
    "megaphi.parallel.job_store": "megaphi.parallel.rendezvous.job_store",
    "megaphi.parallel.meeting": "megaphi.parallel.rendezvous.meeting",
    "megaphi.parallel.place": "megaphi.parallel.rendezvous.place",
    "megaphi.parallel.heartbeat": "megaphi.parallel.liveness.patience",
}
"""New names of modules that users' files may import: 0.2 moved them into folders, some of them twice."""
_KINDS = {"recipe": "function", "objective": "class", "dataset": "class", "task": "class"}


def is_own_code(name: str) -> bool:
    """Return whether `name` refers to a Python file rather than to something of ours."""
    return ".py:" in name or name.endswith(".py")


def load_own(name: str, *, what: str) -> Callable[..., Any]:
    """The function or class that `my_file.py:name` means; `what` it is for, of `_KINDS`.

    Raises:
        InputError: there is no such file or name, or the file cannot be run.
    """
    path, attribute = split_name(name, what=what)
    module = _LOADED.get(path.resolve()) or running(path, f"{what} {name!r}", lambda: _run(path))
    found = getattr(module, attribute, None)
    if not callable(found):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{path} has no {_KINDS[what]} {attribute!r}.{did_you_mean(attribute, known)}")
    return found


def split_name(name: str, *, what: str) -> tuple[Path, str]:
    """(file, name within it); raises InputError if one is missing."""
    text, _, attribute = name.rpartition(":")
    if not text or not attribute:
        raise InputError(f"{what} {name!r}: name a {_KINDS[what]} too, as in {name.rstrip(':')}:my_{what}")
    path = Path(text).expanduser()
    if not path.is_file():
        raise InputError(f"{what} {name!r}: there is no file {path}")
    return path, attribute


def digest_of(path: Path) -> str:
    """The first 16 hex digits of the SHA-256 of a file: which version of it was used."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def without_digest(name: str) -> str:
    """`my_file.py:name` of the same with `@` and a digest behind it."""
    return name.rpartition("@")[0] or name


def pinned(name: str | None, *, what: str, where: str) -> str | None:
    """`my_file.py:name@digest`: which version of the file is meant. `where` is the field that holds the name.

    Raises:
        InputError: the name carries a digest, and the file has become another.
    """
    if name is None:
        return None
    plain = path_as_pinned(name, what=what, where=where)
    return f"{plain}@{digest_of(split_name(plain, what=what)[0])}"


def path_as_pinned(name: str, *, what: str, where: str) -> str:
    """The name without its digest; raises InputError if it has one that is not the file's."""
    plain = without_digest(name)
    path, _ = split_name(plain, what=what)
    digest = digest_of(path)
    if plain != name and name != f"{plain}@{digest}":
        raise InputError(
            f"{where}={name}: {path} is not the file that this run was trained with (its digest is {digest}): put "
            f"that back, or set {where}={plain} to take this one"
        )
    return plain


def running(path: Path, what: str, action: Callable[[], Result]) -> Result:
    """Call what runs code of `path`; an exception becomes one message with file and line.

    Raises:
        InputError: it failed, or it raised one itself.
    """
    try:
        return action()
    except (InputError, KeyboardInterrupt):
        raise
    except SyntaxError as error:
        where = f"{error.filename or path}, line {error.lineno}"
        raise InputError(f"{what}: {where}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        now = _new_place(error) if isinstance(error, ImportError) else None
        hint = f": import {now}" if now else ""
        line = _line_in(path, error)
        where = str(path) if line is None else f"{path}, line {line}"
        raise InputError(f"{what}: {where}: {type(error).__name__}: {error}{hint}") from None


def _new_place(error: ImportError) -> str | None:
    """New name of a module that `import megaphi.data.loader` or `from megaphi.data import loader` looked for."""
    module = error.name or ""
    if missing := re.match(r"cannot import name '(\w+)'", str(error)):  # error.name_from is of Python 3.12
        module += f".{missing[1]}"
    return _MOVED.get(module)


def _line_in(path: Path, error: BaseException) -> int | None:
    """The last line of the file that was being run."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.realpath(frame.filename) == os.path.realpath(path)
    ]
    return lines[-1] if lines else None


def _run(path: Path) -> ModuleType:
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # last: it must not shadow the program's own modules
    spec = importlib.util.spec_from_file_location(f"own_code_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    _LOADED[path.resolve()] = module
    return module
