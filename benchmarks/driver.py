"""The measuring side: worker processes, the check that they compute the same, and the windows."""

import dataclasses
import json
import math
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.workers.protocol import Losses

CHECKED_STEPS = 3
TOLERANCES: dict[str, tuple[float, ...]] = {
    "discriminator_loss": (1e-4, 1e-3, 5e-3),
    "generator_loss": (1e-3, 1e-3, 5e-3),
    "r1": (1e-4, 1e-4, 1e-4),
}
"""How far a loss may be from the reference's, relative to it, at each of the checked steps.

D's first losses come before any update and differ by rounding alone. Adam's first update moves
every weight by the learning rate along its gradient's sign, which rounding decides where the
gradient is nearly zero, and each further step starts from such weights. The penalty feels that
least, and must be close: its own weight shows in it alone so early.
"""

SETTLE = 0.1
"""Seconds between windows: a library's threads spin for a while after their work."""

ROOT = Path(__file__).resolve().parents[1]


class WorkerError(Exception):
    """A worker could not do what it was asked; the message is its own."""


class Window(NamedTuple):
    """One measurement: so many steps took so long.

    Attributes:
      steps, seconds: of the worker.
      disturbance: how many cores all other processes kept busy meanwhile, where that is known.
    """

    steps: int
    seconds: float
    disturbance: float | None = None

    @property
    def rate(self) -> float:
        """Steps per second."""
        return self.steps / self.seconds


class Worker:
    """A process that answers one request at a time, with its standard error in a file."""

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
        """The answer to a request.

        Raises:
          WorkerError: the request failed, or the process is gone.
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
            raise WorkerError(f"its process ended with code {code}: see {self.log}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.terminate()
        self._process.wait()


@dataclasses.dataclass
class Timed:
    """What is known of a contender on a case.

    Attributes:
      worker: its process.
      unavailable: why it is not timed, if it is not.
      versions: of its libraries.
      losses: of the checked steps.
      deviation: the largest relative difference of a loss from the reference's.
      windows: one for each round.
      peak_bytes: the most memory its process held.
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
        """Steps per second, window by window."""
        return [window.rate for window in self.windows]

    def to_json(self) -> dict[str, Any]:
        """For the file of results."""
        if self.unavailable is not None:
            return {"unavailable": self.unavailable}
        fields = ("versions", "losses", "deviation", "peak_bytes")
        known = {name: getattr(self, name) for name in fields}
        return known | {"windows": [window._asdict() for window in self.windows]}


def attempt(timed: Timed, action: Callable[..., None], *arguments: Any) -> None:
    """`action(timed, *arguments)`; a contender whose worker fails is left out from here on."""
    if timed.unavailable is None:
        try:
            action(timed, *arguments)
        except WorkerError as error:
            timed.unavailable = str(error).splitlines()[0]


def check(contenders: dict[str, Timed], reference: str) -> None:
    """Has each make the same few steps, and leaves out whose losses are not the reference's."""

    def losses(timed: Timed) -> None:
        timed.losses = timed.worker.ask("check", steps=CHECKED_STEPS)["losses"]

    def compare(timed: Timed) -> None:
        if first.unavailable is not None:
            raise WorkerError(f"{reference}, which it is checked against, failed")
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
    """The largest relative difference, and the first that is beyond its tolerance."""
    largest, problem = 0.0, None
    for step, (theirs, ours) in enumerate(zip(losses, wanted, strict=True)):
        if theirs.keys() != ours.keys():
            return math.nan, f"it reports {sorted(theirs)}, not {sorted(ours)}"
        for name, value in ours.items():
            deviation, tolerance = abs(theirs[name] - value) / abs(value), TOLERANCES[name][step]
            largest = max(largest, deviation)
            if not deviation <= tolerance and problem is None:  # NaN is beyond it too
                problem = (
                    f"{name} of step {step + 1} is {theirs[name]:.6g}, the reference's {value:.6g}:"
                    f" {deviation:.1e} apart, and {tolerance:.0e} is allowed"
                )
    return largest, problem


def run(worker: Worker, steps: int) -> Window:
    """One window."""
    before = _busy_seconds()
    answer = worker.ask("run", steps=steps)
    after, seconds = _busy_seconds(), answer["seconds"]
    if before is None or after is None:
        return Window(answer["steps"], seconds)
    others = after - before - answer["cpu_seconds"]
    return Window(answer["steps"], seconds, max(0.0, others / seconds))


def _busy_seconds() -> float | None:
    """What all processes have used of all cores since the machine started, if it says so."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _idle, _wait, *others = map(int, stat.read_text().split()[1:9])
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def calibrate(worker: Worker, seconds: float) -> int:
    """How many steps take about so many seconds."""
    run(worker, 1)  # compiles
    steps = 1
    while (window := run(worker, steps)).seconds < seconds / 4:
        steps = 2 * window.steps
    return max(1, round(window.rate * seconds))


def interleave(
    entries: Sequence[tuple[Timed, float]], rounds: int, announce: Callable[[int, Timed], None]
) -> None:
    """Times all contenders: A B C ... A B C ..., one window of each in each round.

    Args:
      entries: contenders, each with the seconds of its windows.
      rounds: how often.
      announce: given the round, from 1, and what was just timed or found not to be.
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
