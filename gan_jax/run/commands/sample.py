"""Draws samples from a trained run.

Writes --out, a NumPy archive with the samples as `x` (uint8 [num, H, W, C]).

A picture of the first hundred samples is written next to --out.

The same seed gives the same samples. A larger --num adds samples and does not change the others.
"""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from gan_jax import sample
from gan_jax.data.pipeline import quantize
from gan_jax.errors import UserError
from gan_jax.run import cli
from gan_jax.run.commands import train
from gan_jax.run.files import whole
from gan_jax.types import Array

BATCH = 256
"""Images drawn per call. Another number would give other samples for the same seed."""


@dataclasses.dataclass(frozen=True)
class Config:
    """The run and the samples to draw."""

    run: Path
    """Folder of a run of `gan-jax train`."""
    out: Path = Path("samples.npz")
    """Archive to write. The name ends in .npz. The picture has the same name, but ends in .png."""
    num: int = 100
    """Number of images."""
    seed: int = 0
    """Seed of the noise."""
    ema: bool = True
    """Use the moving average of the generator's weights, not the weights of the last step."""
    overwrite: bool = False
    """Replace --out and its picture if they exist."""


def main(config: Config) -> np.ndarray:
    """Draws samples, writes them to `config.out` and returns them: uint8 [num, H, W, C]."""
    from gan_jax.run import plots

    cli.check_at_least(config, num=1)
    cli.check_seed(config)
    if config.out.suffix != ".npz":
        raise UserError(f"--out must be the name of a file and end in .npz, got {config.out}")
    picture = config.out.with_suffix(".png")
    for file in (config.out, picture):
        if file.exists() and not config.overwrite:
            raise UserError(f"{file} exists: choose another --out, or add --overwrite")
        if file.is_dir():
            raise UserError(f"{file} is a folder: choose another --out")
    if not config.out.absolute().parent.is_dir():
        raise UserError(f"--out: there is no folder {config.out.absolute().parent}")

    gan, step, state = train.restore(config.run)

    @jax.jit
    def draw(key: Array) -> Array:
        return quantize(sample(gan, state, key, BATCH, ema=config.ema))

    key = jax.random.key(config.seed)
    x = _room(config.num, jax.eval_shape(draw, key).shape[1:])
    for start in tqdm(range(0, config.num, BATCH), unit="batch", disable=None):
        images = np.asarray(draw(jax.random.fold_in(key, start // BATCH)))
        x[start : start + BATCH] = images[: config.num - start]
    with whole(config.out) as opened:
        np.savez_compressed(opened, x=x)
    plots.save_image(plots.grid(x[:100]), picture)
    print(f"{config.num} samples of step {step}: {config.out}, {picture}")
    return x


def _room(num: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uninitialised array uint8 [num, H, W, C] for all images."""
    try:
        return np.empty((num, *shape), np.uint8)
    except (MemoryError, ValueError):  # more than the memory or the address space
        size = num * math.prod(shape) / 2**30
        raise UserError(
            f"--num {num} needs {size:,.1f} GiB of memory: draw fewer at once, with several --seed"
        ) from None
