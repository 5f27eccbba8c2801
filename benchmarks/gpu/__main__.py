"""Checks and measures this library on one GPU within minutes. The work has five parts.

    correct   compares every function of the library on the GPU with the CPU
    speed     compares training steps per second with PyTorch on the same card
    train     trains handwritten digits by the default recipe and reports distance and time
    profile   lists the operations that take most of a step
    fashion   trains Fashion-MNIST for six minutes. Only --parts starts this part. It needs --data

Each part runs in its own process and has a time limit. After this time the part starts no more
work. If it still runs 30 seconds later, it is killed. After each row of results, a part writes
PART.json to --out, and the tables of all parts to tables.md. A finished part is not run again, and
an interrupted part continues. With `--small` the networks are small, and the command also runs on a
CPU. PyTorch is optional.
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
from benchmarks.gpu import fashion
from benchmarks.gpu.sheet import Sheet
from gan_jax.errors import UserError

SECONDS = {"correct": 150.0, "speed": 220.0, "train": 60.0, "profile": 30.0, "fashion": 430.0}
"""The parts in their order, each with its default time limit in seconds."""

USUAL = ("correct", "speed", "train", "profile")
"""The parts that run by default. Together they take less than eight minutes."""

DATA = Path("/usr/share/datasets/fashion-mnist")
"""The folder of Debian's package dataset-fashion-mnist."""

FLAGS = {
    # In a CUDA graph the profiler would show a whole program as one operation.
    "profile": "--xla_gpu_enable_command_buffer=",
}
"""XLA flags for the process of a part."""

_GRACE = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts in order. Returns 1 if a part failed, and 0 otherwise."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder for the results")
    parser.add_argument(
        "--parts",
        default=",".join(USUAL),
        help=f"some of {','.join(SECONDS)}. Default: %(default)s",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=DATA,
        help="the IDX files of Fashion-MNIST. Default: %(default)s",
    )
    parser.add_argument("--seconds", default="", help="time limits, such as correct=100,speed=200")
    parser.add_argument("--small", action="store_true", help="small networks, a quick rehearsal")
    parser.add_argument("--inside", choices=tuple(SECONDS), help=argparse.SUPPRESS)
    config = parser.parse_args(arguments)
    try:
        parts, seconds = check_parts(config.parts), check_seconds(config.seconds)
        if "fashion" in (config.inside or parts):
            fashion.check(config.data)
    except UserError as error:
        parser.error(str(error))
    if config.out.exists() and not config.out.is_dir():
        parser.error(f"--out {config.out} is a file: give a folder")
    config.out.mkdir(parents=True, exist_ok=True)
    if config.inside:
        sheet = Sheet(config.out, config.inside, seconds[config.inside])
        return _inside(sheet, config.small, config.data)
    failed = [
        part for part in parts if _run(part, config.out, seconds[part], config.small, config.data)
    ]
    print(f"written: {config.out}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def check_parts(text: str) -> list[str]:
    """Returns the parts named in a comma-separated text.

    Raises:
      UserError: a part is unknown.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in parts if part not in SECONDS]
    if unknown or not parts:
        got = ", ".join(unknown) or "none"
        raise UserError(f"--parts must be some of {', '.join(SECONDS)}, got {got}")
    return parts


def check_seconds(text: str) -> dict[str, float]:
    """Returns the time limit of each part, changed by a text such as "correct=100,speed=200".

    Raises:
      UserError: a part is unknown, or its time is not a number above 0.
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
                f"--seconds takes part=seconds with a part of {', '.join(SECONDS)} and seconds "
                f"above 0, got {item!r}"
            )
    return seconds


def _run(part: str, out: Path, seconds: float, small: bool, data: Path) -> int:
    """Runs a part in its own process.

    Returns its exit status, or 0 if the part had finished before.
    """
    if Sheet(out, part, seconds).finished:
        print(f"{part}: already finished", flush=True)
        return 0
    command = [sys.executable, "-m", "benchmarks.gpu", "--inside", part, "--out"]
    command += [
        str(out.absolute()),
        "--seconds",
        f"{part}={seconds}",
        "--data",
        str(data.absolute()),
    ]
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS.get(part, '')}".strip()
    # PyTorch's process needs memory on the same card.
    memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
    environment = {**os.environ, **memory, "XLA_FLAGS": flags, "PYTHONUNBUFFERED": "1"}
    if small:  # without this, compilation for a CPU takes minutes
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"
    start = time.monotonic()
    process = subprocess.Popen(
        command + small * ["--small"], cwd=ROOT, env=environment, start_new_session=True
    )
    try:
        status = process.wait(seconds + _GRACE)
    except subprocess.TimeoutExpired:
        print(f"{part}: killed {_GRACE:.0f} s after its time limit", flush=True)
        os.killpg(process.pid, signal.SIGKILL)  # the process and its workers
        status = process.wait()
    print(f"{part}: {time.monotonic() - start:.0f} s, status {status}", flush=True)
    return status


def _inside(sheet: Sheet, small: bool, data: Path) -> int:
    """Runs a part in this process. Returns 1 if a row has an error, and 0 otherwise."""
    if sheet.part == "fashion":
        fashion.run(sheet, small, data)
    else:
        run: Callable[[Sheet, bool], None] = import_module(f"benchmarks.gpu.{sheet.part}").run
        run(sheet, small)
    sheet.done()
    return int(any("traceback" in row for row in sheet.rows))


if __name__ == "__main__":
    sys.exit(main())
