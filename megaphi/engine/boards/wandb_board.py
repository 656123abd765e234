"""Weights & Biases: the numbers of metrics.jsonl in a run on wandb.ai, or in files for `wandb sync`.

A separate process (`wandb_process.py`) talks to W&B, so that none of its network, disk or exceptions can stop or slow a
step. A record goes into a pipe that never blocks, and the end of that process is reported once. The W&B run's id is
kept in the run folder: a resumed run continues it, a run that starts over gets a new one. Fields that the section
`wandb` leaves open are taken from the environment (WANDB_MODE, WANDB_ENTITY, WANDB_RUN_ID, ...). No torch here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megaphi.config import difference
from megaphi.errors import InputError
from megaphi.files import read_json, write_json
from megaphi.log import logger

CLOSING_SECONDS = 10.0
"""Seconds that the end of a run waits for W&B to send the rest."""
LONGEST_WAITING = 16 << 20
"""Bytes kept in memory for a process that does not read; beyond them it is abandoned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Wandb:
    """Weights & Biases, beside TensorBoard (config section `wandb`); needs `pip install 'megaphi[wandb]'`."""

    project: str | None = None
    """Project to log to; none: W&B is off, even if the environment configures it."""
    entity: str | None = None
    """User or team that the project belongs to; none: WANDB_ENTITY, or the account's default."""
    name: str | None = None
    """Name of the run there; none: WANDB_NAME, or the name of the run folder."""
    group: str | None = None
    """Group of runs that it belongs to; none: WANDB_RUN_GROUP, or no group."""
    mode: Literal["online", "offline"] | None = None
    """offline: write to wandb/ in the run folder, for `wandb sync`; none: WANDB_MODE, or online."""


def check_wandb(section: Wandb) -> None:
    """Refuse W&B that is not installed, and settings of W&B without a project. Raises InputError."""
    if not section.project:
        for path, value, _ in difference(section, Wandb(project=section.project)):
            raise InputError(f"wandb.{path}={value} needs wandb.project: only a project turns W&B on")
        return
    spec = importlib.util.find_spec("wandb")
    if (
        spec is None or spec.origin is None
    ):  # a folder `wandb` that W&B left in the working directory is not the package
        raise InputError(
            f"wandb.project={section.project} needs the package wandb, which is not installed: "
            "pip install 'megaphi[wandb]', or set wandb.project=none"
        )


class WandbBoard:
    """The W&B board of one run; logs the records after step `after`."""

    def __init__(self, folder: Path, section: Wandb, *, config: dict[str, Any], after: int) -> None:
        self._log = folder / "logs" / "wandb.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        start = _arguments(folder, section, config=config, after=after)
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "megaphi.engine.boards.wandb_process"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        self._pipe = self._process.stdin
        os.set_blocking(self._pipe.fileno(), False)
        self._waiting = b""
        self.add(start)
        logger.info("W&B: run %s of project %s; what it says is in %s", start["id"], section.project, self._log)

    def add(self, record: dict[str, Any]) -> None:
        """Pass a record to the process without blocking. Raises RuntimeError if it has ended or does not read."""
        with self._given_up_on_failure():
            self._waiting += json.dumps(record).encode() + b"\n"
            self._write()
            if len(self._waiting) > LONGEST_WAITING:
                raise RuntimeError(f"it has taken nothing for {len(self._waiting):,} bytes")

    @contextmanager
    def _given_up_on_failure(self) -> Iterator[None]:
        """After the exception there are no more calls: the process must see the end of its input now, not at the
        run's.
        """
        try:
            yield
        except Exception:
            self._pipe.close()
            raise

    def _write(self) -> None:
        if self._process.poll() is not None:
            raise RuntimeError(self._reason())
        try:
            while self._waiting:
                self._waiting = self._waiting[os.write(self._pipe.fileno(), self._waiting) :]
        except BlockingIOError:
            return
        except OSError:
            raise RuntimeError(self._reason()) from None

    def _reason(self) -> str:
        """The last output of the process, which has ended."""
        self._process.wait(CLOSING_SECONDS)
        said = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return f"its process ended with code {self._process.returncode}, see {self._log}: {' '.join(said[-1:])}"

    def close(self) -> None:
        """End the W&B run; its process continues to send what is left. Raises RuntimeError if it failed."""
        limit = time.monotonic() + CLOSING_SECONDS
        self.add({"exit_code": 0})
        with self._given_up_on_failure():
            while self._waiting and time.monotonic() < limit:
                time.sleep(0.01)
                self._write()
        self._pipe.close()
        try:
            if self._process.wait(max(limit - time.monotonic(), 0)):
                raise RuntimeError(self._reason())
        except subprocess.TimeoutExpired:
            number = self._process.pid
            logger.warning("W&B is not done after %g s: process %d continues by itself", CLOSING_SECONDS, number)


def _arguments(folder: Path, section: Wandb, *, config: dict[str, Any], after: int) -> dict[str, Any]:
    """Arguments of `wandb.init`; those left out, W&B takes from the environment."""
    known = {name: getattr(section, name) for name in ("project", "entity", "name", "group", "mode")}
    defaults = {
        "name": ("WANDB_NAME", folder.resolve().name),
        "resume": ("WANDB_RESUME", "allow"),
        "dir": ("WANDB_DIR", str(folder.resolve())),
        "settings": ("WANDB_CONSOLE", {"console": "off"}),  # a rank has its logs; this process has nothing to show
    }
    for name, (variable, value) in defaults.items():
        if known.get(name) is None and variable not in os.environ:
            known[name] = value
    given = {name: value for name, value in known.items() if value is not None}
    return {**given, "id": _run_id(folder / "wandb.json", after=after), "config": config}


def _run_id(path: Path, *, after: int) -> str:
    """The id of the W&B run to continue, or a new one, which is kept."""
    found = os.environ.get("WANDB_RUN_ID")
    if not found and after and path.is_file():
        found = read_json(path, what="id of the W&B run")["id"]
    found = found or secrets.token_hex(4)
    write_json(path, {"id": found})
    return found
