"""What the driver and a worker process say to each other: a JSON object a line, each way in turn.

    {"do": "start", "contender": ..., "case": {...}, "problem": path}  ->  {"versions": {...}}
    {"do": "check", "steps": n}   ->  {"losses": [{name: value}, one for each step]}
    {"do": "run", "steps": n}     ->  {"steps": n or a few more, "seconds": ..., "cpu_seconds": ...}
    {"do": "stop"}                ->  {"peak_bytes": ...}, and the process ends

A request that fails is answered {"error": message}. Only numpy and the standard library here.
"""

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from benchmarks import problem
from benchmarks.cases import Case, from_json

Losses: TypeAlias = dict[str, float]
"""`discriminator_loss` without penalties, `generator_loss` and, if it has a weight, `r1`."""

Loop: TypeAlias = Callable[[int], tuple[int, Losses]]
"""Trains for so many steps, waits for the last, and says how many it made and its losses."""


class Setting(NamedTuple):
    """What a worker builds a loop from.

    Attributes:
      contender: which of the worker's variants.
      case: the GAN, its dropout off if `fixed`.
      problem: weights and data.
      fixed: whether every real batch and every z is the problem's fixed one, to compare losses.
      precision: "float32"; on a GPU also "tf32" (products only) and "bfloat16" (networks).
    """

    contender: str
    case: Case
    problem: problem.Problem
    fixed: bool
    precision: str = "float32"


def read_setting(request: dict[str, Any]) -> Setting:
    """What a start request asks for."""
    case, path = from_json(request["case"]), Path(request["problem"])
    return Setting(request["contender"], case, problem.load(path), fixed=False)


def serve(
    build: Callable[[Any], Loop],
    versions: dict[str, str],
    read: Callable[[dict[str, Any]], Any] = read_setting,
) -> None:
    """Answers the driver until it says stop.

    Args:
      build: makes a loop from what `read` returned.
      versions: of the libraries that are timed.
      read: the start request -> what to build a loop from.
    """
    replies = _own_stdout()
    session = _Session(build, versions, read)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = session.answer(request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}".strip()}
        print(json.dumps(answer), file=replies, flush=True)
        if request["do"] == "stop":
            return


def _own_stdout() -> Any:
    """The standard output for replies alone: what libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


class _Session:
    """One contender on one case."""

    def __init__(
        self,
        build: Callable[[Any], Loop],
        versions: dict[str, str],
        read: Callable[[dict[str, Any]], Any],
    ) -> None:
        self.build, self.versions, self.read = build, versions, read
        self.setting: Any = None
        self.loop: Loop | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "start"}:
                self.loop = None  # frees the previous setting's memory
                self.setting = self.read(request)
                return {"versions": self.versions}
            case {"do": "check", "steps": steps}:
                return {"losses": check(self.build, self.setting, steps)}
            case {"do": "run", "steps": steps}:
                self.loop = self.loop or self.build(self.setting)
                start, cpu_start = time.perf_counter(), time.process_time()
                made, _ = self.loop(steps)
                seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
                return {"steps": made, "seconds": seconds, "cpu_seconds": cpu_seconds}
            case {"do": "stop"}:
                return {"peak_bytes": peak_bytes()}
        raise ValueError(f"unknown request {request}")


def check(build: Callable[[Setting], Loop], setting: Setting, steps: int) -> list[Losses]:
    """The losses of the first steps on the fixed batch and noise, without dropout."""
    case = setting.case.without_dropout()
    loop = build(setting._replace(case=case, fixed=True))
    return [loop(1)[1] for _ in range(steps)]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_memory(pid: int | None = None) -> dict[str, int]:
    """Linux's figures of a process's memory in bytes, by its names for them.

    Args:
      pid: of the process; None is this one.

    Returns:
      `VmRSS` (what it holds), `VmHWM` (the most it has held) and others; nothing where there is
      no such process or no /proc.
    """
    try:
        lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")
    }


def peak_bytes() -> int:
    """The most memory this process has held, compiling included.

    Linux counts in `ru_maxrss` what the parent held when it started the process, and in `VmHWM`
    does not.
    """
    if peak := process_memory().get("VmHWM"):
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
