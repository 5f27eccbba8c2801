"""Compares the training steps per second of this library and PyTorch on one card.

A step is one update of D and one of G, by Adam. Each contender runs in its own process during the
whole part. The contenders of a row take turns in short windows, one at a time, and the results are
medians. In float32 each contender first makes three updates from the same weights on the same batch
and noise. It is excluded unless its losses equal those of this library. The most important rows
come first, and rows that are not reached in time are left out.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.accelerators import MACHINES, Machine, step_bytes, step_flops
from benchmarks.cases import CASES, MODELS, Case
from benchmarks.driver import ROOT, Timed, Worker, WorkerError, attempt, check, interleave
from benchmarks.gpu.request import request
from benchmarks.gpu.sheet import Row, Sheet

OURS, EAGER, TUNED, COMPILED = "gan_jax", "torch_eager", "torch_tuned", "torch_compile"
GRAPHED = "torch_compile_graph"
BASIC = (OURS, EAGER, TUNED)
BEST = (OURS, COMPILED, GRAPHED)
PRECISIONS = ("bfloat16", "tf32", "float32")

PEAKS: dict[str, Machine] = dict(
    zip(("float32", "tf32", "bfloat16"), (m for m in MACHINES if "H100" in m.name), strict=True)
)
"""The peak rates of an H100, by the precision of products."""

_LONGEST = 100.0
"""Largest number of seconds for a worker's answer."""


class Effort(NamedTuple):
    """Settings for how much is measured.

    Attributes:
      rounds, seconds: number of windows per contender, and their length in seconds.
      batch_sizes: the most important batch size, then the others.
      ensembles: numbers of mixture GANs in one program.
    """

    rounds: int
    seconds: float
    batch_sizes: tuple[int, ...]
    ensembles: tuple[int, ...]


FULL = Effort(3, 0.2, (256, 64, 1024), (16, 128, 1024))
SMALL = Effort(1, 0.02, (8,), (2,))


class _Limited(Worker):
    """A worker that is killed if it does not answer in time."""

    limit = _LONGEST

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Returns the answer, as `Worker.ask` does. A worker that takes too long is killed.

        Raises:
          WorkerError: as for `Worker.ask`, or the worker was killed.
        """
        timer = threading.Timer(self.limit, self._process.kill)
        timer.start()
        try:
            return super().ask(do, **arguments)
        except (ValueError, OSError) as error:  # a truncated line or a closed pipe
            raise WorkerError(f"its process ended: {error}") from None
        finally:
            timer.cancel()

    @property
    def gone(self) -> bool:
        """Returns True if the process has ended."""
        return self._process.poll() is not None


class _Crew:
    """One process for each kind of contender.

    A process is started on first use, and started again if it has ended.
    """

    def __init__(self, sheet: Sheet, folder: Path) -> None:
        self._sheet, self._folder = sheet, folder
        self._workers: dict[str, _Limited] = {}

    def __getitem__(self, contender: str) -> _Limited:
        kind = OURS if contender.startswith(OURS) else contender
        worker = self._workers.get(kind)
        if worker is None or worker.gone:
            worker = self._workers[kind] = start(contender, self._folder)
        worker.limit = max(20.0, min(_LONGEST, self._sheet.left + 15))
        return worker

    def drop(self, contender: str) -> None:
        """Ends a worker that failed, because an error on the card may persist."""
        if worker := self._workers.pop(contender, None):
            worker.close()

    def close(self) -> None:
        """Ends all workers."""
        for worker in self._workers.values():
            worker.close()


def start(contender: str, folder: Path) -> _Limited:
    """Returns a new process for a contender. Its standard error goes to a file in the folder."""
    module = "jax_worker" if contender.startswith(OURS) else "torch_worker"
    command = [sys.executable, "-m", f"benchmarks.gpu.{module}"]
    return _Limited(contender, command, folder / f"{contender}.log")


def run(sheet: Sheet, small: bool) -> None:
    """Adds all rows."""
    effort = SMALL if small else FULL
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder / "cache")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
        sheet.facts(
            peaks="; ".join(f"{name}: {m.peak / 1e12:g} TFLOP/s" for name, m in PEAKS.items())
            + f"; {PEAKS['tf32'].memory / 1e12:g} TB/s (data sheet of an H100, SXM)",
            share_of_products="arithmetic of the architecture, divided by the card's peak",
            share_of_memory="minimal bytes of a step layer by layer, divided by the card's peak",
        )
        with closing(_Crew(sheet, folder)) as crew:
            for table, row in _plan(sheet, effort, folder):
                sheet.attempt(table, row.name, partial(row.measure, crew, effort))


@dataclasses.dataclass(frozen=True)
class _Race:
    """One case, batch size and precision, with its contenders."""

    case: Case
    batch_size: int
    precision: str
    contenders: Sequence[str] = BASIC

    @property
    def name(self) -> str:
        """Returns the name of the row."""
        ensemble = self.contenders[0].removeprefix(OURS).strip("_")
        suffix = f", {ensemble}" if ensemble else ""
        return f"{self.case.name}, {self.batch_size}, {self.precision}{suffix}"

    @property
    def checked(self) -> bool:
        """Returns True if losses are compared. They have to agree only in float32."""
        plain = self.contenders[0] == OURS
        return self.precision == "float32" and plain

    def request(self, contender: str) -> dict[str, Any]:
        """Returns the request to a contender."""
        return request(contender, self.case, self.batch_size, self.precision, checked=self.checked)

    def measure(self, crew: _Crew, effort: Effort) -> Row:
        """Returns the row.

        Raises:
          WorkerError: this library could not be timed.
        """
        timed = {name: Timed(crew[name]) for name in self.contenders}
        for name, one in timed.items():
            attempt(one, self._begin, name)
        if self.checked:
            check(timed, self.contenders[0])
        begun = time.monotonic()
        interleave([(one, effort.seconds) for one in timed.values()], effort.rounds, _quiet)
        for name, one in timed.items():
            if one.unavailable is not None:
                crew.drop(OURS if name.startswith(OURS) else name)
        ours = timed[self.contenders[0]]
        if ours.unavailable is not None:
            raise WorkerError(_reason(ours))
        row: Row = {}
        for name, one in timed.items():
            row[name] = median(one.rates) if one.unavailable is None else _reason(one)
        for name, one in timed.items():
            if one is not ours and one.unavailable is None:
                pairs = zip(ours.rates, one.rates, strict=True)
                row[f"÷ {name}"] = median(a / b for a, b in pairs)
        row |= self._shares(median(ours.rates))
        deviations = [one.deviation for one in timed.values() if one.deviation is not None]
        if deviations:
            row["losses agree to"] = max(deviations)
        rates = [rate for one in timed.values() if one.unavailable is None for rate in one.rates]
        return row | {
            "lowest to highest": f"{min(ours.rates):.0f} to {max(ours.rates):.0f}",
            "timing s": round(time.monotonic() - begun, 1),
            "windows": len(rates),
        }

    def _begin(self, timed: Timed, name: str) -> None:
        timed.worker.ask("start", **self.request(name))

    def _shares(self, rate: float) -> Row:
        machine = PEAKS[self.precision]
        moved = step_bytes(self.case, self.batch_size, machine.activation)
        flops = step_flops(self.case, self.batch_size)
        return {
            "share of products": f"{flops * rate / machine.peak:.1%}",
            "share of memory": f"{moved * rate / machine.memory:.1%}",
        }


@dataclasses.dataclass(frozen=True)
class _FirstStep:
    """The time from the start of a process to its first finished chunk of steps."""

    case: Case
    batch_size: int
    contender: str
    folder: Path
    kept: bool

    @property
    def name(self) -> str:
        """Returns the name of the row."""
        return f"{self.contender}, {'compiled before' if self.kept else 'nothing compiled before'}"

    def measure(self, crew: _Crew, effort: Effort) -> Row:
        """Returns the row."""
        del crew, effort
        cache = "JAX_ENABLE_COMPILATION_CACHE"
        os.environ[cache] = "true" if self.kept else "false"
        begin = time.monotonic()
        try:
            with closing(start(self.contender, self.folder)) as worker:
                asked = request(self.contender, self.case, self.batch_size, "tf32")
                worker.ask("start", **asked)
                worker.ask("run", steps=1)
                return {"seconds": time.monotonic() - begin}
        finally:
            os.environ.pop(cache)


def _reason(timed: Timed) -> str:
    """Returns the reason why a contender was not timed, without its log, which is deleted."""
    return str(timed.unavailable).split(": see ")[0][:300]


def _quiet(number: int, timed: Timed) -> None:
    """Prints nothing. Whole rows are announced instead of windows."""


def narrow(case: Case) -> Case:
    """Returns the case with its widths divided so that the smallest is 8."""
    divisor = min(case.widths) // 8
    return dataclasses.replace(case, widths=tuple(width // divisor for width in case.widths))


def _plan(sheet: Sheet, effort: Effort, folder: Path) -> Iterator[tuple[str, _Race | _FirstStep]]:
    """Yields all rows, the most important first.

    It compiles their programs in parallel beforehand.
    """
    names = ("dcgan28", "dcgan64", "mlp", "mixture", "dcgan28_r1")
    first, *others = effort.batch_sizes
    small = effort is SMALL
    sized = narrow if small else lambda case: case
    cases = {name: sized(CASES[name]) for name in names}

    def race(name: str, size: int, precision: str) -> _Race:
        contenders = (OURS, TUNED) if cases[name].r1 else BASIC  # PyTorch's tutorial has no penalty
        return _Race(cases[name], size, precision, contenders)

    # These programs are compiled one at a time, because the compiler chooses kernels by timing
    # them.
    for precision in PRECISIONS[:: 2 if small else 1]:
        yield "DCGAN 28", _Race(cases["dcgan28"], first, precision)
    for num in effort.ensembles:
        one = _Race(cases["mixture"], min(first, 64), "tf32", (f"{OURS}_{num}", TUNED))
        yield "mixtures in one program, GANs' steps per second", one
    for precision in PRECISIONS[: 0 if small else 2]:  # torch.compile takes minutes on a CPU
        yield "torch.compile", _Race(cases["dcgan28"], first, precision, BEST)
    rest = [race(name, first, p) for name in names[1:] for p in PRECISIONS]
    rest = rest[-1:] if small else rest
    modern = [
        _Race(sized(case), min(first, 64), precision, (OURS, TUNED))
        for case in MODELS.values()
        for precision in PRECISIONS[:2]
    ]
    modern = modern[:1] if small else modern
    _warm(sheet, rest + modern)
    for one in rest:
        yield f"batch {first}", one
    for one in modern:
        yield "other models", one
    for contender in ("gan_jax_scan", "gan_jax_calls"):
        yield "other loops", _Race(cases["dcgan28"], first, "tf32", (contender,))
    for contender, kept in ((OURS, False), (OURS, True), (TUNED, False))[: 1 if small else None]:
        yield "first chunk", _FirstStep(cases["dcgan28"], first, contender, folder, kept)
    if not small:
        for precision in PRECISIONS[:2]:
            yield "torch.compile", _Race(cases["dcgan64"], first, precision, BEST)
        for case in MODELS.values():
            for precision in PRECISIONS[:2]:
                yield "torch.compile", _Race(case, first, precision, (OURS, COMPILED))
    for size in others:
        more = [race(name, size, p) for name in names for p in PRECISIONS]
        _warm(sheet, more)
        for one in more:
            yield f"batch {size}", one


def _warm(sheet: Sheet, races: Sequence[_Race]) -> None:
    """Compiles this library's programs for the rows into its cache, in parallel."""
    if sheet.left <= 0:
        return
    begin = time.monotonic()
    lines = [json.dumps(race.request(race.contenders[0])) for race in races]
    command = [sys.executable, "-m", "benchmarks.gpu.jax_worker", "warm"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(
            command,
            cwd=ROOT,
            input="\n".join(lines),
            text=True,
            capture_output=True,
            timeout=max(10.0, min(90.0, sheet.left)),
        )
    print(f"[speed] compiled {len(races)} programs: {time.monotonic() - begin:.0f} s", flush=True)
