"""Draws samples from a trained run.

Writes --out, a NumPy archive with `x` (uint8 [num, H, W, C]), and a picture of the first hundred
beside it. The same seed gives the same samples, and a larger --num only adds to them.
"""

import dataclasses
import importlib
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from experiments import cli
from gan_jax import sample
from gan_jax.data.pipeline import quantize
from gan_jax.errors import UserError
from gan_jax.run import datasets
from gan_jax.run.files import whole
from gan_jax.types import Array

BATCH = 256
"""Images drawn at a time. Part of the definition of a sample: changing it changes them."""

_WRONG = (ImportError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError)
"""Exceptions that damaged settings may raise while a run is built: JSON checks no field's type."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Which run, and how many."""

    run: Path
    """The folder of the run."""
    out: Path = Path("samples.npz")
    """The archive to write; a picture goes beside it."""
    num: int = 100
    """How many images."""
    seed: int = 0
    """Of the noise."""
    ema: bool = True
    """Whether to use the moving average of the weights or those of the last step."""
    overwrite: bool = False
    """Whether --out may replace a file."""


def main(config: Config) -> np.ndarray:
    """Returns what it writes: uint8 [num, H, W, C]."""
    from gan_jax.run import plots
    from gan_jax.run.checkpoint import Checkpoints
    from gan_jax.run.folder import read_config

    cli.check_at_least(config, num=1)
    if not 0 <= config.seed < 2**32:
        raise UserError(f"--seed must be in [0, 2**32), got {config.seed}")
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

    settings = read_config(config.run)
    gan, template = _build(config.run, settings)
    checkpoints = Checkpoints(config.run / "checkpoints", keep=None)
    restored = checkpoints.restore(template)
    checkpoints.close()
    if restored is None:
        raise UserError(f"{config.run} has no checkpoint yet: let the run go on for a while")
    step, state = restored

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
    """An empty array uint8 [num, H, W, C] for all images, which are held in memory at once."""
    try:
        return np.empty((num, *shape), np.uint8)
    except (MemoryError, ValueError):  # beyond the memory, or the address space
        size = num * math.prod(shape) / 2**30
        raise UserError(
            f"--num {num} needs {size:,.1f} GiB of memory: draw fewer, the rest with other --seed"
        ) from None


def _build(run: Path, settings: dict[str, Any]) -> tuple[Any, ...]:
    """The GAN and the shapes of the state of a run, from its settings.

    Raises:
      UserError: the settings are damaged, or from another version.
    """
    try:
        experiment = importlib.import_module(f"experiments.{settings['experiment']}")
        raw = settings["config"]
        config = experiment.Config(**{**raw, "data": datasets.Config(**raw["data"])})
        gan, state, _ = experiment.build(config, None, tuple(settings["data"]["shape"]))
    except _WRONG as error:
        raise UserError(
            f"{run / 'config.json'} is not that of a run of this version ({error!r})"
        ) from None
    return gan, state


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
