"""The folder of one run: its settings, its results and its lock."""

import json
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gan_jax.errors import UserError
from gan_jax.run.files import naming, whole, write_text
from gan_jax.run.locks import LOCK, alone

Record = dict[str, Any]


class RunFolder:
    """The files of one run: config, metrics, samples, checkpoints and summary.

    A run resumes only with the settings that it began with. Files may be written only during a
    session, which `visit` opens. A session locks the folder against other processes.

    Args:
      path: the folder, which need not exist yet.
      settings: every setting that affects the result, as nested dictionaries. Values that JSON
        cannot store are stored as strings.
      free: dotted names of the settings that may differ between sessions.
      defaults: values by dotted name for settings that a run of an earlier version lacks.

    Raises:
      UserError: the folder holds files that do not belong to a run, or a run with other settings.
    """

    def __init__(
        self,
        path: Path | str,
        settings: Record | None = None,
        free: frozenset[str] = frozenset(),
        defaults: Record | None = None,
    ) -> None:
        self.path = Path(path).absolute()
        self._settings = _as_json(settings or {})
        self._free = free
        self._defaults = _as_json(defaults or {})
        self._visited = False
        self._config = self.path / "config.json"
        self._found()
        self.samples = self.path / "samples"
        self.checkpoints = self.path / "checkpoints"
        self._metrics = self.path / "metrics.jsonl"

    def part(self, name: str) -> "RunFolder":
        """Returns the sub-folder `name`. Use one sub-folder per training if a run has several."""
        return RunFolder(self.path / name, self._settings, self._free, self._defaults)

    def _found(self) -> Record:
        """Returns the settings of the run in the folder, or an empty dictionary if there is none.

        Raises:
          UserError: the run cannot resume with the settings of this object.
        """
        if self._config.exists():
            found = read_config(self.path)
            _check_same(self.path, {**self._defaults, **_flat(found)}, self._settings, self._free)
            return found
        if self.path.exists() and not _is_blank(self.path):
            raise UserError(
                f"{self.path} exists and is not a run's folder (it has no config.json): use "
                "another folder, or delete its files yourself"
            )
        return {}

    @contextmanager
    def visit(self) -> Iterator[None]:
        """Returns a context for one session, with the folder locked and `config.json` written.

        The folder is created if it does not exist. A nested call has no effect.

        Raises:
          UserError: another command has locked the folder, or the folder now holds a run with other
            settings.
        """
        if self._visited:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with alone(self.path):
            if self._found() != self._settings or not self._config.exists():
                write_json(self._config, self._settings)  # first, because it marks a run's folder
            self._visited = True
            try:
                yield
            finally:
                self._visited = False

    def is_complete(self, step: int) -> bool:
        """Returns whether a session ended at this step and wrote its summary."""
        return self.summary().get("step") == step

    def summary(self) -> Record:
        """Returns the contents of `summary.json`, or {} if the file is missing or damaged."""
        try:
            summary = json.loads((self.path / "summary.json").read_bytes())
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return summary if isinstance(summary, dict) else {}

    def metrics(self, announce: Callable[[str], None] = print) -> list[Record]:
        """Returns the records logged so far, in order.

        Each record has a `step` and finite values. Lines that cannot be read, such as a line cut
        off by a crash, are left out.

        Args:
          announce: called with a message about each line that is left out.
        """
        return read_records(self.path, announce)

    def rewind(self, step: int, announce: Callable[[str], None] = print) -> list[Record]:
        """Deletes the records after `step` and returns the others.

        If `step` is -1, all records are deleted. Records that cannot be read are announced and
        deleted. A summary of a later step is deleted too.
        """
        kept = [record for record in self.metrics(announce) if record["step"] <= step]
        if self.summary().get("step", -1) > step:
            (self.path / "summary.json").unlink()
        write_text(self._metrics, "".join(json.dumps(record) + "\n" for record in kept))
        return kept

    def log(self, record: Record) -> None:
        """Appends one record to `metrics.jsonl`."""
        with naming(self._metrics), self._metrics.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def keep(self, step: int, arrays: dict[str, Any]) -> None:
        """Writes named arrays of one step to a file in `samples/`."""
        self.samples.mkdir(exist_ok=True)
        with whole(self.samples / f"{step:07d}.npz") as file:
            np.savez(file, **arrays)

    def kept(self) -> list[tuple[int, dict[str, Any]]]:
        """Returns the arrays that `keep` wrote, as pairs (step, arrays) in ascending order.

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
                    f"{file} is damaged ({error}): restore it, or start a run in a new folder"
                ) from None
        return found

    def once(self, work: Callable[[], Record]) -> Record:
        """Returns the summary. If there is none, calls `work` in a session and saves a new summary.

        The new summary is the result of `work` plus the duration of the call in seconds.
        """
        if done := self.summary():
            return done
        with self.visit():
            start = time.monotonic()
            made = work()
            return self.summarise({**made, "wall_seconds": time.monotonic() - start})

    def summarise(self, summary: Record) -> Record:
        """Writes `summary.json` and returns its contents: the summary, devices and versions."""
        whole = summary | environment()
        write_json(self.path / "summary.json", whole)
        return whole


def environment() -> Record:
    """Returns the devices and the versions of libraries, as summaries record them."""
    names = ("gan-jax", "jax", "jaxlib", "flax", "optax", "numpy")
    devices = [f"{device.platform}:{device.device_kind}" for device in jax.devices()]
    return {"devices": devices, "versions": {name: version(name) for name in names}}


def read_config(path: Path) -> Record:
    """Returns the settings of a run.

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


def read_records(path: Path, announce: Callable[[str], None] = print) -> list[Record]:
    """Returns the records of the run in a folder, as `RunFolder.metrics` does."""
    metrics = path / "metrics.jsonl"
    if not metrics.exists():
        return []
    records = []
    for number, line in enumerate(metrics.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(_parse_record(line))
        except (ValueError, OverflowError, RecursionError) as error:
            announce(f"line {number} of {metrics} cannot be read ({error}) and is left out")
    return records


def best_record(records: Sequence[Record], score: str, steps: Collection[int]) -> Record | None:
    """Returns the record with the lowest score among those of the given steps, or None."""
    known = [record for record in records if score in record and record["step"] in steps]
    return min(known, key=lambda record: record[score], default=None)


def _is_blank(path: Path) -> bool:
    """Returns whether a folder is empty, apart from files of an interrupted first session."""
    begun = {LOCK, "config.json.tmp"}
    return path.is_dir() and all(entry.name in begun for entry in path.iterdir())


def write_json(path: Path, value: Record) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def _parse_record(line: bytes) -> Record:
    """Returns the record in a line of `metrics.jsonl`: a step and finite numbers.

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


def _as_json(settings: Record) -> Record:
    return json.loads(json.dumps(settings, default=str))


def _check_same(path: Path, was: Record, new: Record, free: frozenset[str]) -> None:
    now = _flat(new)
    names = [
        name
        for name in sorted(was.keys() | now.keys())
        if name not in free and was.get(name) != now.get(name)
    ]
    if names:
        remedy = "Use its settings to resume it, or another folder for a new run."
        if names == ["config.num_steps"]:
            remedy = (
                "A schedule of this run ends at num_steps. Use another folder for a longer run, "
                "which can start from the weights of this one."
            )
        if all(name.startswith("data.") for name in names):
            remedy = "The data have changed. Put them back to resume it, or use another folder."
        raise UserError(
            f"{path} holds a run with other settings:\n"
            + "".join(f"  {n}: {was.get(n)!r} there, {now.get(n)!r} asked for\n" for n in names)
            + remedy
            + _other_source(was, now)
        )


def _other_source(was: Record, now: Record) -> str:
    """Returns a hint if old and new settings name different data sources, or "" otherwise."""
    source = was.get("data.source")
    if source == now.get("data.source"):
        return ""
    return f" (Set data.source to {source} to use the data of that run.)"
