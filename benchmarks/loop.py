"""The cost of a run in addition to its training steps: `python -m benchmarks.loop`.

It makes three measurements of `experiments.mnist` with default settings:

  start     seconds from the command to its first finished step, with an empty compilation cache
            and with the cache of the previous run
  overhead  steps through the loop with its records, grids and checkpoints, compared with direct
            calls of the same compiled chunks, in turns in one process
  memory    the growth over time and the peak of the resident memory of the running command

Times are medians. Run nothing else at the same time.
"""

import contextlib
import dataclasses
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from benchmarks.driver import ROOT
from benchmarks.report import check_out, machine_facts
from benchmarks.workers.protocol import process_memory
from experiments import mnist
from gan_jax import parallel
from gan_jax.data.pipeline import make_batches, on_bytes
from gan_jax.errors import UserError
from gan_jax.run import cli, hooks, images, progress
from gan_jax.run import datasets as data
from gan_jax.run.checkpoint import Checkpoints
from gan_jax.run.folder import RunFolder, write_json
from gan_jax.run.loop import Work, make_chunk, run
from gan_jax.run.tables import markdown
from gan_jax.types import TrainState

Part = Literal["start", "overhead", "memory"]
PARTS: tuple[Part, ...] = ("start", "overhead", "memory")


@dataclasses.dataclass(frozen=True)
class Config:
    """The parts to measure and their repetitions."""

    parts: tuple[Part, ...] = PARTS
    repetitions: int = 3  # starts with an empty cache, each followed by one with a full cache
    rounds: int = 5  # pairs of windows, one with hooks and one without
    steps: int = 1000  # steps in a window
    memory_steps: int = 3000  # steps of the run for the memory measurement
    settled: int = 200  # steps of the memory run before memory is recorded
    out: Path | None = None  # JSON file for all results


Figures = dict[str, Any]


def main(config: Config) -> Figures:
    """Measures the parts and prints a table."""
    validate(config)
    figures: Figures = {"machine": machine_facts(), "jax": jax.__version__}
    measures = (measure_start, measure_overhead, measure_memory)
    with tempfile.TemporaryDirectory() as folder:
        for part, measure in zip(PARTS, measures, strict=True):
            if part in config.parts:
                print(f"measuring {part}", flush=True)
                figures[part] = measure(config, Path(folder))
    print(f"\n{table(figures)}")
    if config.out is not None:
        write_json(config.out, figures)
    return figures


def validate(config: Config) -> None:
    """Raises `UserError` for an invalid setting. The message names its flag."""
    if not config.parts:
        raise UserError(f"--parts must be some of {', '.join(PARTS)}; got none")
    cli.check_at_least(config, repetitions=1, rounds=1, steps=1, settled=0)
    cli.check_at_least(config, memory_steps=config.settled + 2 * mnist.Config.log_every)
    if "memory" in config.parts and not process_memory():
        raise UserError("--parts memory needs /proc, which only Linux has: name the other parts")
    check_out(config.out)


def measure_start(config: Config, folder: Path) -> Figures:
    """Returns the seconds from the command to the record of its first step, by state of the
    cache."""
    seconds: dict[str, list[float]] = {"cold": [], "warm": []}
    for number in range(config.repetitions):
        for kind, times in seconds.items():
            workdir, cache = folder / f"{kind}{number}", folder / f"cache{number}"
            start = time.perf_counter()
            with _command(workdir, cache, num_steps=1) as process:
                while not _records(workdir):
                    _check_running(process)
                    time.sleep(0.005)
                times.append(time.perf_counter() - start)
    return {kind: {"median": statistics.median(t), "all": t} for kind, t in seconds.items()}


def measure_memory(config: Config, folder: Path) -> Figures:
    """Returns the resident memory of a run in MiB.

    The results are the peak of a run that compiles its programs and, for a run with a full cache,
    the peak, the median of the later steps and the growth over time.
    """
    _, cold = _watch(folder, "cold", config.settled + 1)
    samples, peak = _watch(folder, "warm", config.memory_steps)
    settled = np.array([pair for pair in samples if pair[0] > config.settled])
    if len(np.unique(settled[:, :1])) < 2:
        raise UserError("too short for a slope: give more --memory-steps")
    slope = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0])
    return {
        "compiling_peak_mib": cold,
        "peak_mib": peak,
        "settled_mib": float(np.median(settled[:, 1])),
        "mib_per_1000_steps": 1000 * slope,
        "samples": samples,
    }


def _watch(folder: Path, name: str, num_steps: int) -> tuple[list[tuple[int, float]], float]:
    """Returns (last recorded step, resident memory in MiB) over time, and the peak in MiB."""
    workdir, samples, peak = folder / name, list[tuple[int, float]](), 0.0
    with _command(workdir, folder / "cache", num_steps=num_steps) as process:
        while process.poll() is None:
            records, memory = _records(workdir), process_memory(process.pid)
            if records and memory and records[-1]["step"] < num_steps:
                samples.append((records[-1]["step"], memory["VmRSS"] / 2**20))
            peak = max(peak, memory.get("VmHWM", 0) / 2**20)
            time.sleep(0.25)
        _check_running(process)
    return samples, peak


def _command(workdir: Path, cache: Path, *, num_steps: int) -> subprocess.Popen[str]:
    flags = [f"--workdir={workdir}", f"--num-steps={num_steps}", "--data.source=embedded"]
    flags += ["--log-every=1"] if num_steps == 1 else []  # by default only step 50 is recorded
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.mnist", *flags],
        cwd=ROOT,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _check_running(process: subprocess.Popen[str]) -> None:
    if process.poll():
        said = process.stderr.read().strip() if process.stderr else ""
        raise UserError(f"the experiment ended with code {process.returncode}: {said}")


def _records(workdir: Path) -> list[Figures]:
    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True) if metrics.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def measure_overhead(config: Config, folder: Path) -> Figures:
    """Returns the seconds per window with and without the loop, measured in turns."""
    setting = mnist.Config(data=data.Config(source="embedded"))
    dataset = data.load(setting.data)
    axis_name, shape = parallel.AXIS_NAMES[setting.parallel], dataset.x.shape[1:]
    gan, state, step = mnist.build(setting, axis_name, shape)
    length, run_folder = setting.log_every, RunFolder(folder / "overhead", {})
    chunk = parallel.make_step(setting.parallel, make_chunk(on_bytes(step), length))
    stacks = make_batches(dataset, state.key, (length, setting.n_critic, setting.batch_size))

    def batches(step: int) -> Any:
        return stacks(step * setting.n_critic * setting.batch_size)

    def bare(state: TrainState, begin: int, end: int) -> TrainState:
        for first in range(begin, end, length):
            work = Work(batches(first), np.int32(min(length, end - first)))
            state, _ = chunk(state, work)
        return state

    with ExitStack() as stack:
        stack.enter_context(run_folder.visit())
        run_folder.samples.mkdir()
        kept = setting.keep_checkpoints
        checkpoints = stack.enter_context(closing(Checkpoints(run_folder.checkpoints, keep=kept)))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        steps = 2 * config.steps * (config.rounds + 1)
        shown = stack.enter_context(closing(progress.Progress(0, steps)))
        done = (
            hooks.log(run_folder, shown, checkpoints),
            hooks.watch(images.grids(gan, run_folder, setting.sample_every)),
            hooks.save(setting.checkpoint_every, checkpoints),
        )

        def looped(state: TrainState, begin: int, end: int) -> TrainState:
            span = {"start": begin, "num_steps": end, "chunk_length": length}
            state = run(chunk, state, batches, **span, hooks=done)
            checkpoints.wait()
            return state

        seconds: dict[str, list[float]] = {"with_hooks": [], "bare": []}
        begin = 0
        for number in range(config.rounds + 1):
            for kind, way in (("with_hooks", looped), ("bare", bare)):
                start = time.perf_counter()
                state = jax.block_until_ready(way(state, begin, begin + config.steps))
                begin += config.steps
                if number:  # the first window of each kind compiles
                    seconds[kind].append(time.perf_counter() - start)
    ratios = [a / b - 1 for a, b in zip(*seconds.values(), strict=True)]
    return {"percent": 100 * statistics.median(ratios), "steps": config.steps, **seconds}


def table(figures: Figures) -> str:
    """Returns the results in Markdown."""
    rows: dict[str, float] = {}
    if found := figures.get("start"):
        rows |= {f"seconds to the first step, {k} cache": found[k]["median"] for k in found}
    if found := figures.get("overhead"):
        for kind, name in (("with_hooks", "with records, grids and checkpoints"), ("bare", "bare")):
            rows[f"steps/s {name}"] = found["steps"] / statistics.median(found[kind])
        rows["overhead of the loop, %"] = found["percent"]
    if found := figures.get("memory"):
        rows["memory: peak of a run that compiles, MiB"] = found["compiling_peak_mib"]
        rows["memory: peak of a run with a full cache, MiB"] = found["peak_mib"]
        rows["memory: median once settled, MiB"] = found["settled_mib"]
        rows["memory: growth, MiB per 1000 steps"] = found["mib_per_1000_steps"]
    return markdown(("what", "median"), [(what, f"{x:.2f}") for what, x in rows.items()])


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
