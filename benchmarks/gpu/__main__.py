"""Checks and measures this library on one GPU, in parts, within minutes.

    correct   every function of the library on the GPU, compared with the CPU
    speed     training steps per second beside PyTorch on the same card
    train     handwritten digits by the default recipe: the distance, and the time it took
    profile   the operations that take most of a step

Each part is a process of its own. It starts no more work when its time is used up, and is killed
half a minute later. It writes PART.json to --out after each row, and all parts' tables to
tables.md. A finished part is not run again; an interrupted one continues. `--small` runs the same
on small networks, on a CPU too. PyTorch is optional.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from benchmarks.driver import ROOT
from benchmarks.gpu.sheet import Sheet
from gan_jax.errors import UserError

SECONDS = {"correct": 150.0, "speed": 240.0, "train": 60.0, "profile": 30.0}
"""The parts in their order, each with its default time limit in seconds."""

FLAGS = {
    # The profiler would show a program in a CUDA graph as one operation.
    "profile": "--xla_gpu_enable_command_buffer=",
}
"""XLA flags for the process of a part."""

_GRACE = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts one after another. Returns 1 if one of them failed, else 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder for the results")
    parser.add_argument("--parts", default=",".join(SECONDS), help="some of %(default)s")
    parser.add_argument("--seconds", default="", help="time limits, such as correct=100,speed=200")
    parser.add_argument("--small", action="store_true", help="small networks, a quick rehearsal")
    parser.add_argument("--inside", choices=tuple(SECONDS), help=argparse.SUPPRESS)
    config = parser.parse_args(arguments)
    try:
        parts, seconds = check_parts(config.parts), check_seconds(config.seconds)
    except UserError as error:
        parser.error(str(error))
    if config.out.exists() and not config.out.is_dir():
        parser.error(f"--out {config.out} is a file: give a folder")
    config.out.mkdir(parents=True, exist_ok=True)
    if config.inside:
        return _inside(config.inside, config.out, seconds[config.inside], config.small)
    failed = [part for part in parts if _run(part, config.out, seconds[part], config.small)]
    print(f"written: {config.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def check_parts(text: str) -> list[str]:
    """The parts that a comma-separated text names.

    Raises:
      UserError: one is unknown.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in parts if part not in SECONDS]
    if unknown or not parts:
        got = ", ".join(unknown) or "none"
        raise UserError(f"--parts must be some of {', '.join(SECONDS)}, got {got}")
    return parts


def check_seconds(text: str) -> dict[str, float]:
    """The time for each part, as a text like "correct=100,speed=200" changes it.

    Raises:
      UserError: a part is unknown, or its time is no number above 0.
    """
    seconds = dict(SECONDS)
    for item in filter(None, text.split(",")):
        part, _, value = item.partition("=")
        try:
            seconds[part] = float(value)
        except ValueError:
            seconds[part] = 0.0
        if part not in SECONDS or not seconds[part] > 0:
            raise UserError(
                f"--seconds takes part=seconds of {', '.join(SECONDS)}, each above 0, got {item!r}"
            )
    return seconds


def _run(part: str, out: Path, seconds: float, small: bool) -> int:
    """Runs a part in a process of its own. Returns its exit status, 0 if it was not needed."""
    if Sheet(out, part, seconds).finished:
        print(f"{part}: finished before", flush=True)
        return 0
    command = [sys.executable, "-m", "benchmarks.gpu", "--inside", part, "--out"]
    command += [str(out.absolute()), "--seconds", f"{part}={seconds}"]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS.get(part, '')}".strip()
    # PyTorch, in another process, needs memory on the card too.
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment = {**os.environ, **memory, "XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"}
    if small:  # compiling a step for a CPU takes minutes otherwise
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    start = time.monotonic()
    process = subprocess.Popen(
        command + small * ["--small"], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        status = process.wait(seconds + _GRACE)
    except subprocess.TimeoutExpired:
        print(f"{part}: ended, {_GRACE:.0f} s after its time was used up", flush=True)
        os.killpg(process.pid, signal.SIGKILL)  # and its own workers
        status = process.wait()
    print(f"{part}: {time.monotonic() - start:.0f} s, status {status}", flush=True)
    return status


def _inside(part: str, out: Path, seconds: float, small: bool) -> int:
    """Runs a part in this process. Returns 1 if one of its rows has an error, else 0."""
    sheet = Sheet(out, part, seconds)
    run: Callable[[Sheet, bool], None] = import_module(f"benchmarks.gpu.{part}").run
    run(sheet, small)
    sheet.done()
    return int(any("traceback" in row for row in sheet.rows))


if __name__ == "__main__":
    sys.exit(main())
