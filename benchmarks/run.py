"""The speed benchmark: `python -m benchmarks.run` times this library and others in one run.

Each contender trains the same GAN in its own process. Before the timing, all contenders make the
same three steps from the same weights on the same batch and noise. A contender whose losses differ
from this library's is excluded. The processes of a case all stay alive, but only one computes at a
time. They take turns in windows of a few seconds, so changes of the machine affect all of them.

The default cases are chains of layers. `--cases r3gan32 sngan32 stylegan2_32` times other models.
PyTorch may be in another environment: --torch-python names its Python. A contender whose library is
missing is left out, and the table says why.
`--rounds 1 --seconds 0.2` quickly checks that everything runs.
"""

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import problem
from benchmarks.cases import CASES, MODELS, Case
from benchmarks.driver import Timed, Worker, attempt, check, interleave
from benchmarks.report import MACHINE, Result, machine_facts
from gan_jax.errors import UserError
from gan_jax.run import cli
from gan_jax.run import datasets as data
from gan_jax.run.files import write_text
from gan_jax.run.folder import write_json

REFERENCE = "gan_jax"
MODULES = {
    "gan_jax": "jax_library",
    "gan_jax_plain": "jax_library",
    "gan_jax_1_core": "jax_library",
    "gan_jax_16": "jax_library",
    "gan_jax_shard": "jax_library",
    "torch_eager": "torch_variants",
    "torch_tuned": "torch_variants",
    "torch_compile": "torch_variants",
    "jax_usual": "jax_usual",
} | dict.fromkeys(MACHINE, "machine")
"""The module of `benchmarks.workers` for each contender."""

CONTENDERS = tuple(name for name in MODULES if name not in MACHINE)


@dataclasses.dataclass(frozen=True)
class Config:
    """The cases and contenders to time, and the amount of time."""

    cases: tuple[str, ...] = tuple(CASES)
    contenders: tuple[str, ...] = CONTENDERS  # gan_jax is always included as the reference
    rounds: int = 7  # number of windows per contender
    seconds: float = 4.0  # seconds per window
    torch_python: Path = Path(sys.executable)  # a Python executable with torch
    out: Path = Path("runs/benchmark")  # folder for results.json, tables.md and the workers' logs
    seed: int = 0  # seed of the weights and the fixed noise


def main(config: Config) -> None:
    """Times all cases. After each case, prints its table and writes all results so far."""
    validate(config)
    _look_for_torch(config)
    known = CASES | MODELS
    plan = [(known[name], size) for name in config.cases for size in known[name].batch_sizes]
    (config.out / "logs").mkdir(parents=True, exist_ok=True)
    digits = data.load(data.Config(source="embedded")).x
    clock = _Clock(sum(config.rounds * len(contenders(config, case)) for case, _ in plan))
    results: list[Result] = []
    with ExitStack() as stack:
        machine = _start(stack, config, list(MACHINE), "machine")
        for case, size in plan:
            result = time_case(config, case, size, digits, machine, clock)
            results.append(result)
            print(f"\n{result.table()}\n", flush=True)
            _write(config, results)
    print(f"written: {config.out / 'results.json'} and {config.out / 'tables.md'}")


def validate(config: Config) -> None:
    """Raises `UserError` for an invalid setting. The message names its flag."""
    for name, known in (("cases", (*CASES, *MODELS)), ("contenders", CONTENDERS)):
        given = getattr(config, name)
        unknown = [value for value in given if value not in known]
        if unknown or not given:
            what = f"got {', '.join(unknown)}" if unknown else "got none"
            raise UserError(f"--{name} must be some of {', '.join(known)}; {what}")
        if len(set(given)) < len(given):
            raise UserError(f"--{name} names one twice: {' '.join(given)}; name each once")
    cli.check_at_least(config, rounds=1)
    cli.check_above_zero(config, "seconds")
    cli.check_seed(config)
    if not config.torch_python.is_file():
        raise UserError(
            f"--torch-python {config.torch_python} is no file: give the path of a Python that has "
            "torch, as venv/bin/python"
        )
    if config.out.exists() and not config.out.is_dir():
        raise UserError(f"--out {config.out} is a file: give a folder")


def contenders(config: Config, case: Case) -> list[str]:
    """Returns the requested contenders of a case and the reference."""
    return [name for name in case.contenders if name in {*config.contenders, REFERENCE}]


def time_case(
    config: Config,
    case: Case,
    batch_size: int,
    digits: NDArray[np.uint8],
    machine: dict[str, Timed],
    clock: "_Clock",
) -> Result:
    """Checks and times a case's contenders, and measures the machine in the same rounds."""
    label = f"{case.name}, batch {batch_size}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        problem.make(case, batch_size, config.seed, digits).save(folder / "problem.npz")
        print(f"{label}: starting the workers and comparing their losses", flush=True)
        start = {"case": dataclasses.asdict(case), "problem": str(folder / "problem.npz")}
        names = contenders(config, case)
        timed = _start(stack, config, names, f"{case.name}-{batch_size}", **start)
        check(timed, REFERENCE)
        measured = {name: Timed(known.worker, known.unavailable) for name, known in machine.items()}
        entries = [(one, config.seconds) for one in timed.values()]
        entries += [(one, config.seconds / 8) for one in measured.values()]

        def announce(number: int, one: Timed) -> None:
            if one.worker.name in timed:
                what = one.unavailable or f"{one.windows[-1].rate:.4g} steps/s"
                print(
                    f"{label}: round {number}/{config.rounds}  {one.worker.name} {what}  "
                    f"ETA {clock.tick():.0f} s",
                    flush=True,
                )

        interleave(entries, config.rounds, announce)
        for one in timed.values():
            attempt(one, _finish)
    return Result(case, batch_size, timed, measured)


def _finish(timed: Timed) -> None:
    timed.peak_bytes = timed.worker.ask("stop")["peak_bytes"]


class _Clock:
    """An estimate of the remaining time from the average time per window."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.start = total, 0, time.monotonic()

    def tick(self) -> float:
        """Counts a window and returns the seconds left."""
        self.done += 1
        return (time.monotonic() - self.start) / self.done * (self.total - self.done)


def _look_for_torch(config: Config) -> None:
    """Prints a remedy if PyTorch cannot be timed."""
    if not any("torch" in name for name in config.contenders):
        return
    probe = [str(config.torch_python), "-c", "import torch"]
    if subprocess.run(probe, capture_output=True).returncode:
        print(
            f"{config.torch_python} has no torch: `pip install torch` there, or give another "
            "Python with --torch-python. Continuing without it.",
            flush=True,
        )


def _start(
    stack: ExitStack, config: Config, names: Sequence[str], label: str, **request: Any
) -> dict[str, Timed]:
    """Returns worker processes with these names. They end when the stack is closed."""
    started = {}
    for name in names:
        python = str(config.torch_python.absolute()) if "torch" in name else sys.executable
        command = [python, "-m", f"benchmarks.workers.{MODULES[name]}"]
        worker = Worker(name, command, config.out / "logs" / f"{label}-{name}.log")
        stack.enter_context(closing(worker))
        started[name] = Timed(worker)
    for one in started.values():
        attempt(one, _begin, request)
    return started


def _begin(timed: Timed, request: dict[str, Any]) -> None:
    timed.versions = timed.worker.ask("start", contender=timed.worker.name, **request)["versions"]


def _write(config: Config, results: list[Result]) -> None:
    found = {
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in dataclasses.asdict(config).items()
        },
        "machine": machine_facts(),
        "results": [result.to_json() for result in results],
    }
    write_json(config.out / "results.json", found)
    tables = "\n\n".join(result.table() for result in results)
    write_text(config.out / "tables.md", tables + "\n")


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
