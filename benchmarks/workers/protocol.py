"""The protocol between the driver and a worker process: alternating JSON objects, one per line.

    {"do": "start", "contender": ..., "case": {...}, "problem": path}  ->  {"versions": {...}}
    {"do": "check", "steps": n}   ->  {"losses": [{name: value}, one for each step]}
    {"do": "run", "steps": n}     ->  {"steps": n or a few more, "seconds": ..., "cpu_seconds": ...}
    {"do": "stop"}                ->  {"peak_bytes": ...}, and the process ends

The answer to a failed request is {"error": message}. This module needs only numpy and the standard
library.
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
"""`discriminator_loss` without penalties, `generator_loss` and, if its weight is not 0, `r1`."""

Loop: TypeAlias = Callable[[int], tuple[int, Losses]]
"""Trains for the given number of steps, waits for the last, and returns the number of steps made
and the losses."""


class Setting(NamedTuple):
    """The information from which a worker builds a loop.

    Attributes:
      contender: the variant of the worker.
      case: the GAN. Its dropout is off if `fixed`.
      problem: weights and data.
      fixed: whether every step uses the fixed real batch and the fixed z of the problem, so that
        losses can be compared.
      precision: "float32". On a GPU also "tf32" (products only) and "bfloat16" (networks).
    """

    contender: str
    case: Case
    problem: problem.Problem
    fixed: bool
    precision: str = "float32"


def read_setting(request: dict[str, Any]) -> Setting:
    """Returns the setting of a start request."""
    case, path = from_json(request["case"]), Path(request["problem"])
    return Setting(request["contender"], case, problem.load(path), fixed=False)


def serve(
    build: Callable[[Any], Loop],
    versions: dict[str, str],
    read: Callable[[dict[str, Any]], Any] = read_setting,
) -> None:
    """Answers the driver until the driver sends "stop".

    Args:
      build: returns a loop for the result of `read`.
      versions: versions of the timed libraries.
      read: converts the start request to the argument of `build`.
    """
    replies = _own_stdout()
    setting: Any = None
    loop: Loop | None = None

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        nonlocal setting, loop
        match request:
            case {"do": "start"}:
                loop = None  # frees the memory of the previous setting
                setting = read(request)
                return {"versions": versions}
            case {"do": "check", "steps": steps}:
                return {"losses": check(build, setting, steps)}
            case {"do": "run", "steps": steps}:
                loop = loop or build(setting)
                start, cpu_start = time.perf_counter(), time.process_time()
                made, _ = loop(steps)
                seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
                return {"steps": made, "seconds": seconds, "cpu_seconds": cpu_seconds}
            case {"do": "stop"}:
                return {"peak_bytes": peak_bytes()}
        raise ValueError(f"unknown request {request}")

    for line in sys.stdin:
        request = json.loads(line)
        try:
            answered = answer(request)
        except Exception as error:
            traceback.print_exc()
            answered = {"error": f"{type(error).__name__}: {error}".strip()}
        print(json.dumps(answered), file=replies, flush=True)
        if request["do"] == "stop":
            return


def _own_stdout() -> Any:
    """Returns the standard output, reserved for answers.

    Prints of libraries go to standard error.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def check(build: Callable[[Setting], Loop], setting: Setting, steps: int) -> list[Losses]:
    """Returns the losses of the first steps on the fixed batch and noise, without dropout."""
    case = setting.case.without_dropout()
    loop = build(setting._replace(case=case, fixed=True))
    return [loop(1)[1] for _ in range(steps)]


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_memory(pid: int | None = None) -> dict[str, int]:
    """Returns Linux's memory statistics of a process in bytes, by their Linux names.

    Args:
      pid: the number of the process. None means this process.

    Returns:
      `VmRSS` (current memory), `VmHWM` (peak memory) and others. The result is empty if there is no
        such process or no /proc.
    """
    try:
        lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
    except OSError:
        return {}
    return {
        line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")
    }


def peak_bytes() -> int:
    """Returns the peak memory of this process in bytes, including compilation.

    On Linux, `ru_maxrss` includes the memory of the parent at the start of the process. `VmHWM`
    does not.
    """
    if peak := process_memory().get("VmHWM"):
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
