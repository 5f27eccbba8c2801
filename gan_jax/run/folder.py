"""The folder of one run: what it was asked to do, what came of it, and whether it may go on."""

import importlib.metadata
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from filelock import FileLock, Timeout

from gan_jax.errors import UserError
from gan_jax.run.files import naming, whole, write_text

Record = dict[str, Any]

_LOCK = ".lock"
"""Lock file. Its presence alone does not mean that the folder is locked."""


class RunFolder:
    """`config.json`, `metrics.jsonl`, `samples/`, `checkpoints/` and `summary.json` of one run.

    A run goes on only with the settings that it began with. Nothing is written before a `visit`.

    Args:
      path: of the folder.
      settings: all that decides the result, nested dictionaries; values JSON lacks become strings.
      free: the dotted names of settings that may change from one visit to the next.

    Raises:
      UserError: the folder holds other files than a run's, or a run with other settings.
    """

    def __init__(self, path: Path, settings: Record, free: frozenset[str] = frozenset()) -> None:
        self.path = path.absolute()
        self._settings = json.loads(json.dumps(settings, default=str))
        self._free = free
        self._visited = False
        self._config = self.path / "config.json"
        self._found()
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self._metrics = self.path / "metrics.jsonl"

    def part(self, name: str) -> "RunFolder":
        """The folder of one of several trainings of a run, below the run's own."""
        return RunFolder(self.path / name, self._settings, self._free)

    def _found(self) -> Record:
        """The settings of the run that is there, if it may go on with ours; empty if none is."""
        if self._config.exists():
            found = read_config(self.path)
            _check_same(self.path, found, self._settings, self._free)
            return found
        if self.path.exists() and not _is_blank(self.path):
            raise UserError(
                f"{self.path} exists and is not a run's folder (it has no config.json): choose "
                "another, or empty it yourself"
            )
        return {}

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Makes the folder, or notes the free settings of this visit, and keeps others out.

        A visit within a visit changes nothing.

        Raises:
          UserError: another command is at work in the folder, or has been since it was looked at,
            with other settings.
        """
        if self._visited:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with _alone(self.path):
            if self._found() != self._settings or not self._config.exists():
                write_json(self._config, self._settings)  # first: else the rest is not a run's
            self._visited = True
            try:
                yield
            finally:
                self._visited = False

    def is_complete(self, step: int) -> bool:
        """Whether a visit ended at this step and left its summary."""
        return self.summary().get("step") == step

    def summary(self) -> Record:
        """What `summarise` wrote; empty if it has not, or if the file is damaged."""
        try:
            summary = json.loads((self.path / "summary.json").read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return summary if isinstance(summary, dict) else {}

    def metrics(self, announce: Callable[[str], None] = print) -> list[Record]:
        """The records logged so far, in order: each has a `step`, and all its values are finite.

        Args:
          announce: called with a message about each line that is left out because it cannot be
            read, such as one cut off by a crash.
        """
        if not self._metrics.exists():
            return []
        records = []
        for number, line in enumerate(self._metrics.read_bytes().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                records.append(_parse_record(line))
            except (ValueError, OverflowError, RecursionError) as error:
                announce(
                    f"line {number} of {self._metrics} cannot be read ({error}): it is left out"
                )
        return records

    def rewind(self, step: int, announce: Callable[[str], None] = print) -> list[Record]:
        """Drops the records after `step`, which will be logged again, and returns the rest.

        -1 drops all of them. So is a summary of a later step.

        Records that cannot be read are announced, and dropped too.
        """
        kept = [record for record in self.metrics(announce) if record["step"] <= step]
        if self.summary().get("step", -1) > step:
            (self.path / "summary.json").unlink()
        write_text(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))
        return kept

    def log(self, record: Record) -> None:
        """Appends one record."""
        with naming(self._metrics), self._metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def keep(self, step: int, arrays: dict[str, Any]) -> None:
        """Writes named arrays seen at a step to `samples/`."""
        self.samples.mkdir(exist_ok=True)
        with whole(self.samples / f"{step:07d}.npz") as file:
            np.savez(file, **arrays)

    def kept(self) -> list[tuple[int, dict[str, Any]]]:
        """What `keep` wrote, by step, in order.

        Raises:
          UserError: a file is damaged.
        """
        found = []
        for file in sorted(self.samples.glob("*.npz")):
            try:
                with np.load(file) as arrays:
                    found.append((int(file.stem), dict(arrays)))
            except Exception as error:  # a damaged archive raises exceptions of many kinds
                raise UserError(
                    f"{file} is damaged ({error}): restore it, or begin anew in another folder"
                ) from None
        return found

    def once(self, work: Callable[[], Record]) -> Record:
        """The summary; where there is none, `work` is done during a visit and returns it."""
        if done := self.summary():
            return done
        with self.visit():
            start = time.monotonic()
            made = work()
            return self.summarise({**made, "wall_seconds": time.monotonic() - start})

    def summarise(self, summary: Record) -> Record:
        """Writes `summary.json`, the versions and the devices at hand added: all it returns."""
        names = ("gan-jax", "jax", "jaxlib", "flax", "optax", "numpy")
        devices = [f"{device.platform}:{device.device_kind}" for device in jax.devices()]
        versions = {name: importlib.metadata.version(name) for name in names}
        whole = {**summary, "devices": devices, "versions": versions}
        write_json(self.path / "summary.json", whole)
        return whole


def read_config(path: Path) -> Record:
    """The settings a run was made with.

    Raises:
      UserError: the folder holds no run, or its `config.json` is damaged.
    """
    file = path / "config.json"
    try:
        settings = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} is not a run's folder: it has no config.json") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is damaged ({error}): restore it, or use a new folder") from None
    if not isinstance(settings, dict):
        raise UserError(f"{file} is damaged (no JSON object): restore it, or use a new folder")
    return settings


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keeps other commands out of a folder, if its file system has locks."""
    # Without locks, a file that says so would outlive a command that was killed.
    lock = FileLock(path / _LOCK, fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UserError(
            f"another command is at work in {path}: wait until it is done, or choose another folder"
        ) from None
    except (OSError, NotImplementedError):
        pass  # no locks here; what else may be wrong with the folder shows when it is written to
    try:
        yield
    finally:
        lock.release()


def _is_blank(path: Path) -> bool:
    """Whether a path is a folder with nothing in it but, at most, what a first visit began with."""
    begun = {_LOCK, "config.json.tmp"}
    return path.is_dir() and all(entry.name in begun for entry in path.iterdir())


def write_json(path: Path, value: Record) -> None:
    """Writes a JSON file whole or not at all."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _parse_record(line: bytes) -> Record:
    """The record in a line of `metrics.jsonl`: a step, and numbers that are finite.

    Raises:
      ValueError, OverflowError, RecursionError: the line holds no such record.
    """
    record = json.loads(line.decode())
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    step = record.get("step")
    if type(step) is not int or step < 0:
        raise ValueError(f"its step is {step!r}")
    for name, value in record.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}, not a finite number")
    return record


def _flat(settings: Record, prefix: str = "") -> Record:
    flat: Record = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _check_same(path: Path, old: Record, new: Record, free: frozenset[str]) -> None:
    was, now = _flat(old), _flat(new)
    differences = [
        f"  {name}: {was.get(name)!r} there, {now.get(name)!r} asked for"
        for name in sorted(was.keys() | now.keys())
        if name not in free and was.get(name) != now.get(name)
    ]
    if differences:
        raise UserError(
            f"{path} holds a run with other settings:\n"
            + "\n".join(differences)
            + "\nUse its settings to resume it, or another folder for a new run."
            + _other_source(was, now)
        )


def _other_source(was: Record, now: Record) -> str:
    """What to say where other data were found than the last time, as when the network is back."""
    source = was.get("data.source")
    if source == now.get("data.source"):
        return ""
    return f" (data.source {source} takes the data from where that run did.)"
