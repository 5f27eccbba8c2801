"""How time and memory grow: `python -m benchmarks.growth`.

One setting of a small DCGAN on 28x28 images is changed at a time: the batch, the width, the image,
n_critic, the number of images in the data set; and the number of GANs in an ensemble of small
MLPs. Chunks of steps are timed in turns, and the memory is what XLA sets aside for the program.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.report import check_out
from gan_jax import (
    Batch,
    init,
    losses,
    make_discriminator_step,
    make_generator_step,
    make_train_step,
    parallel,
)
from gan_jax.data.pipeline import make_batches, on_bytes
from gan_jax.data.types import Dataset
from gan_jax.models import MODELS
from gan_jax.optimizers import adam
from gan_jax.run import cli
from gan_jax.run.folder import write_json
from gan_jax.run.loop import Work, make_chunk
from gan_jax.run.tables import markdown


@dataclasses.dataclass(frozen=True)
class Config:
    """How long to look."""

    rounds: int = 5  # windows of each setting, in turns
    steps: int = 20  # in a window, which is one chunk
    out: Path | None = None  # a JSON file for the figures


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is changed, from the middle of every range."""

    batch_size: int = 64
    width: int = 32
    size: int = 28
    n_critic: int = 1
    images: int = 5000
    ensemble: int = 0  # 0: one DCGAN; else so many MLPs


RANGES: dict[str, tuple[int, ...]] = {
    "batch_size": (16, 32, 64, 128, 256),
    "width": (16, 32, 64, 96),
    "size": (28, 32, 64),
    "n_critic": (1, 2, 4),
    "images": (1000, 5000, 20000, 60000),
    "ensemble": (1, 2, 4, 8, 16),
}


@dataclasses.dataclass
class Program:
    """A compiled chunk, ready to be timed."""

    run: Callable[[], float]  # seconds of one chunk
    temporary: int  # bytes for what is made on the way
    kept: int  # bytes of state and batches


def compile_chunk(setting: Setting, steps: int) -> Program:
    """The fused loop of a setting on random images that stay on the device."""
    shape = (setting.size, setting.size, 1)
    model = "mlp" if setting.ensemble else "dcgan"
    gan = MODELS[model](shape, latent=32, width=setting.width)
    tx, loss = adam(2e-4, b1=0.5), losses.non_saturating
    step = make_train_step(
        make_discriminator_step(gan, loss, tx),
        make_generator_step(gan, loss, tx),
        n_critic=setting.n_critic,
    )
    chunk = make_chunk(on_bytes(step), steps)
    leading: tuple[int, ...] = (steps, setting.n_critic, setting.batch_size)

    def make_state(key: jax.Array) -> Any:
        return init(gan, tx, tx, key, Batch(jnp.zeros((2, *shape))))

    if setting.ensemble:
        leading = (setting.ensemble, *leading)
        wrapped = parallel.ensemble_step(chunk, devices=jax.devices()[:1])
        state = jax.vmap(make_state)(jax.random.split(jax.random.key(0), setting.ensemble))
    else:
        wrapped = parallel.jit_step(chunk)
        state = jax.jit(make_state)(jax.random.key(0))
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (setting.images, *shape), dtype=np.uint8)
    dataset = Dataset(x, None, "random", "embedded", x[:0])
    batches = make_batches(dataset, jax.random.key(1), leading)
    work = Work(batches(0), np.int32(steps))
    compiled = jax.jit(wrapped, donate_argnums=0).lower(state, work).compile()
    analysis: Any = compiled.memory_analysis()
    seen = 0

    def run() -> float:
        nonlocal state, seen
        start = time.perf_counter()
        state, _ = compiled(state, Work(batches(seen), np.int32(steps)))
        jax.block_until_ready(state)
        seen += int(np.prod(leading))
        return time.perf_counter() - start

    return Program(run, analysis.temp_size_in_bytes, analysis.argument_size_in_bytes + x.nbytes)


def main(config: Config) -> dict[str, list[dict[str, float]]]:
    """Prints a table for each range, and returns its rows."""
    cli.check_at_least(config, rounds=1, steps=1)
    check_out(config.out)
    found: dict[str, list[dict[str, float]]] = {}
    for name, values in RANGES.items():
        base = Setting(ensemble=1, width=128, batch_size=64) if name == "ensemble" else Setting()
        programs = [
            compile_chunk(dataclasses.replace(base, **{name: value}), config.steps)
            for value in values
        ]
        for program in programs:
            program.run()
        seconds = [[program.run() for program in programs] for _ in range(config.rounds)]
        found[name] = [
            {
                name: value,
                "milliseconds": 1e3 * median(row[i] for row in seconds) / config.steps,
                "temporary_mib": programs[i].temporary / 2**20,
                "kept_mib": programs[i].kept / 2**20,
            }
            for i, value in enumerate(values)
        ]
        print(table(name, found[name]) + "\n", flush=True)
    if config.out is not None:
        write_json(config.out, found)
    return found


def table(name: str, rows: list[dict[str, float]]) -> str:
    """Markdown, with each row's time beside what the first row's would grow to in proportion."""
    header = (name, "ms/step", "of proportional growth", "temporary MiB", "state and data MiB")

    def cells(row: dict[str, float]) -> tuple[object, ...]:
        milliseconds = row["milliseconds"]
        proportional = rows[0]["milliseconds"] * row[name] / rows[0][name]
        memory = (f"{row[kind]:.3g}" for kind in ("temporary_mib", "kept_mib"))
        return row[name], f"{milliseconds:.3g}", f"{milliseconds / proportional:.2f}", *memory

    return markdown(header, map(cells, rows))


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
