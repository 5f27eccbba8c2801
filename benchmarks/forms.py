"""Measures how much time each special form for CPUs saves: `python -m benchmarks.forms`.

The forms are those of `gan_jax._cpu.FORMS`. One process compiles the training step with all forms,
with all but one, and with none. It times these programs in turns, one window each per round. A
ratio is the time of a program divided by that of the program with all forms, in the same round. The
table shows the median and the quartiles of the ratios. Nothing else should be running.
"""

import dataclasses
import time
from statistics import median, quantiles

from benchmarks import problem
from benchmarks.cases import CASES, Case
from benchmarks.problem import Problem
from benchmarks.workers import jax_library
from benchmarks.workers.protocol import Loop, Setting
from gan_jax.run import cli, datasets
from gan_jax.run.tables import markdown

_USED = {"mlp": ("dense", "keys", "adam"), "dcgan": ("convolutions", "keys", "adam")}
"""The forms that have an effect on a step, for each model."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The cases to time, and the amount of time."""

    cases: tuple[str, ...] = ("mixture", "mlp", "dcgan28", "dcgan28_r1")  # names of cases
    rounds: int = 15  # number of windows per program
    seconds: float = 0.5  # seconds per window


def main(config: Config) -> dict[str, dict[str, list[float]]]:
    """Prints a table for each case and batch size, and returns the seconds per step."""
    cli.check_at_least(config, rounds=2)
    cli.check_above_zero(config, "seconds")
    digits = datasets.load(datasets.Config(source="embedded")).x
    found = {}
    for case in (CASES[name] for name in config.cases):
        for batch_size in case.batch_sizes:
            label = f"{case.name}, batch {batch_size}"
            found[label] = seconds_per_step(config, problem.make(case, batch_size, 0, digits), case)
            print(f"### {label}\n\n{_table(found[label])}\n", flush=True)
    return found


def seconds_per_step(config: Config, given: Problem, case: Case) -> dict[str, list[float]]:
    """Returns the seconds per step of each program in each round."""
    loops = {
        name: jax_library.build(Setting(name, case, given, fixed=False))
        for name in ("all", *(f"all but {form}" for form in _USED[case.model]), "none")
    }
    steps = {}
    for name, loop in loops.items():
        loop(1)  # compiles
        steps[name] = max(1, round(config.seconds / _time(loop, 1)))
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(config.rounds):
        for name in list(loops) if number % 2 else reversed(loops):
            seconds[name].append(_time(loops[name], min(steps.values())))
    return seconds


def _time(loop: Loop, steps: int) -> float:
    start = time.perf_counter()
    made, _ = loop(steps)
    return (time.perf_counter() - start) / made


def _table(seconds: dict[str, list[float]]) -> str:
    def row(name: str) -> tuple[str, ...]:
        pairs = zip(seconds[name], seconds["all"], strict=True)
        ratios = [ours / base for ours, base in pairs]
        low, _, high = quantiles(ratios, n=4)
        milliseconds = 1e3 * median(seconds[name])
        return name, f"{milliseconds:.3g}", f"{median(ratios):.2f}", f"{low:.2f} to {high:.2f}"

    header = ("forms", "ms/step", "÷ all", "quartiles")
    return markdown(header, map(row, seconds))


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
