"""The measuring process: it starts workers, compares their losses and times them in turns."""

import dataclasses
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.workers.protocol import Losses

CHECKED_STEPS = 3
TOLERANCES: dict[str, tuple[float, ...]] = {
    "discriminator_loss": (1e-4, 1e-3, 5e-3),
    "generator_loss": (1e-3, 1e-3, 5e-3),
    "r1": (1e-4, 1e-4, 1e-4),
}
"""Largest allowed relative deviation of a loss from the reference, for each of the checked steps.

D's first losses are computed before any update and differ only by rounding. Adam's first update
changes every weight by the learning rate in the direction of the gradient's sign. Where a gradient
is nearly zero, rounding decides this sign, and later steps start from such weights. The penalty
depends least on these signs, so its tolerance is tight. A tight tolerance is needed to find a wrong
weight of the penalty: after so few steps, it changes only the penalty itself.
"""

SETTLE = 0.1
"""Pause between windows in seconds. A library's threads stay busy for a while after their work."""

ROOT = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """A failed request, with the worker's message."""


class Window(NamedTuple):
    """One measurement: the time for a number of steps.

    Attributes:
      steps, seconds: as reported by the worker.
      disturbance: average number of cores that all other processes used, if it is known.
    """

    steps: int
    seconds: float
    disturbance: float | None = None

    @property
    def rate(self) -> float:
        """Returns the steps per second."""
        return self.steps / self.seconds


class Worker:
    """A process that answers one request at a time and writes its standard error to a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name, self.log = name, log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Returns the answer to a request.

        Raises:
          WorkerError: the request failed, or the process ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            said = self.log.read_text(errors="replace").strip().splitlines()
            last = f" ({said[-1]})" if said else ""
            raise WorkerError(f"its process ended with code {code}{last}: see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):  # a request that an ended process did not read
                    stream.close()
        self._process.terminate()
        self._process.wait()


@dataclasses.dataclass
class Timed:
    """The measurements of a contender on a case.

    Attributes:
      worker: its process.
      unavailable: the reason why it is not timed, or None.
      versions: versions of its libraries.
      losses: losses of the checked steps.
      deviation: largest relative deviation of a loss from the reference.
      windows: one window for each round.
      peak_bytes: peak memory of its process.
    """

    worker: Worker
    unavailable: str | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    losses: list[Losses] = dataclasses.field(default_factory=list)
    deviation: float | None = None
    windows: list[Window] = dataclasses.field(default_factory=list)
    peak_bytes: int | None = None

    @property
    def rates(self) -> list[float]:
        """Returns the steps per second of each window."""
        return [window.rate for window in self.windows]

    def to_json(self) -> dict[str, Any]:
        """Returns the measurements for the results file."""
        if self.unavailable is not None:
            return {"unavailable": self.unavailable}
        fields = ("versions", "losses", "deviation", "peak_bytes")
        known = {name: getattr(self, name) for name in fields}
        return known | {"windows": [window._asdict() for window in self.windows]}


def attempt(timed: Timed, action: Callable[..., None], *arguments: Any) -> None:
    """Calls `action(timed, *arguments)`.

    A contender whose worker fails is excluded from then on.
    """
    if timed.unavailable is None:
        try:
            action(timed, *arguments)
        except WorkerError as error:
            timed.unavailable = str(error).splitlines()[0]


def check(contenders: dict[str, Timed], reference: str) -> None:
    """Runs the same few steps in each contender. Excludes contenders whose losses differ from the
    reference."""

    def losses(timed: Timed) -> None:
        timed.losses = timed.worker.ask("check", steps=CHECKED_STEPS)["losses"]

    def compare(timed: Timed) -> None:
        if first.unavailable is not None:
            raise WorkerError(f"{reference}, the reference of the check, failed")
        losses(timed)
        timed.deviation, problem = compare_losses(timed.losses, first.losses)
        if problem is not None:
            raise WorkerError(f"does not compute the same: {problem}")

    first = contenders[reference]
    attempt(first, losses)
    for timed in contenders.values():
        if timed is not first:
            attempt(timed, compare)


def compare_losses(losses: list[Losses], wanted: list[Losses]) -> tuple[float, str | None]:
    """Returns the largest relative deviation, and a description of the first deviation above its
    tolerance."""
    largest, problem = 0.0, None
    for step, (theirs, ours) in enumerate(zip(losses, wanted, strict=True)):
        if theirs.keys() != ours.keys():
            return math.nan, f"it reports {sorted(theirs)}, not {sorted(ours)}"
        for name, value in ours.items():
            deviation, tolerance = abs(theirs[name] - value) / abs(value), TOLERANCES[name][step]
            largest = max(largest, deviation)
            if not deviation <= tolerance and problem is None:  # also true for NaN
                problem = (
                    f"{name} of step {step + 1} is {theirs[name]:.6g}, and the reference is "
                    f"{value:.6g}: they differ by {deviation:.1e}, and {tolerance:.0e} is allowed"
                )
    return largest, problem


def run(worker: Worker, steps: int) -> Window:
    """Runs one window of steps."""
    before = _busy_seconds()
    answer = worker.ask("run", steps=steps)
    after, seconds = _busy_seconds(), answer["seconds"]
    if before is None or after is None:
        return Window(answer["steps"], seconds)
    others = after - before - answer["cpu_seconds"]
    return Window(answer["steps"], seconds, max(0.0, others / seconds))


def _busy_seconds() -> float | None:
    """Returns the CPU seconds of all processes since the machine started, or None if unknown."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _wait, *others = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def calibrate(worker: Worker, seconds: float) -> int:
    """Returns the number of steps that take about `seconds`."""
    run(worker, 1)  # compiles
    steps = 1
    while (window := run(worker, steps)).seconds < seconds / 4:
        steps = 2 * window.steps
    return max(1, round(window.rate * seconds))


def interleave(
    entries: Sequence[tuple[Timed, float]], rounds: int, announce: Callable[[int, Timed], None]
) -> None:
    """Times all contenders in turns. Each round has one window of every contender.

    Args:
      entries: contenders, each with the seconds of its windows.
      rounds: number of rounds.
      announce: called with the round, starting at 1, and the contender that was timed or excluded.
    """
    steps: dict[str, int] = {}

    def begin(timed: Timed, seconds: float) -> None:
        steps[timed.worker.name] = calibrate(timed.worker, seconds)

    def measure(timed: Timed) -> None:
        time.sleep(SETTLE)
        timed.windows.append(run(timed.worker, steps[timed.worker.name]))

    for timed, seconds in entries:
        attempt(timed, begin, seconds)
    for number in range(1, rounds + 1):
        for timed, _ in entries:
            attempt(timed, measure)
            announce(number, timed)
