"""Draws samples from a trained run.

Writes --out, a NumPy archive with the samples `x`, uint8 [N, H, W, C]. A conditional run also
writes their classes, `label` [N].

Writes a picture of the first samples next to --out. If it shows several classes, each has its own
row.

The same seed gives the same samples. A larger --num adds samples and does not change the others.
"""

import dataclasses
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax import generate, random, sample
from gan_jax.data.pipeline import quantize
from gan_jax.errors import UserError
from gan_jax.run import cli
from gan_jax.run.commands import train
from gan_jax.run.files import whole
from gan_jax.run.progress import over
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
    """Number of images. With --label all: number for each class."""
    # Class of the images, by name or number. all: every class, from the same noise. None: all
    # classes, as frequent as among the training images, if the run is conditional.
    label: str | None = None
    # Draw --num images between two points of the latent space: of the class in --label, otherwise
    # of every class.
    interpolate: bool = False
    seed: int = 0
    """Seed of the noise."""
    best: bool = False
    """Use the checkpoint with the lowest Fréchet distance, not the newest."""
    ema: bool = True
    """Use the moving average of the generator's weights, not the weights of the last step."""
    overwrite: bool = False
    """Replace --out and its picture if they exist."""


def main(config: Config) -> np.ndarray:
    """Draws samples, writes them to `config.out` and returns them: uint8 [N, H, W, C]."""
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
    cli.check_folder("out", config.out.absolute().parent)

    from gan_jax.run import plots  # takes 0.3 s, so bad flags are refused first
    from gan_jax.run.images import MOST_ROWS

    restored = train.restore(config.run, best=config.best)
    step, classes = restored.step, restored.classes
    rows = labels(config, restored)
    x = draw(config, restored, rows)
    arrays = {"x": x}
    if classes:
        arrays["label"] = np.concatenate(rows)
    with whole(config.out) as opened:
        np.savez_compressed(opened, allow_pickle=False, **arrays)
    shown = np.unique(arrays.get("label", 0))[:MOST_ROWS]
    groups = [x[arrays["label"] == number] for number in shown] if classes else [x]
    if len(groups) > 1 or config.interpolate:
        columns = min(100 if config.interpolate else 10, *map(len, groups))
        image = np.concatenate([group[:columns] for group in groups])
        height = min(560, max(1, 1120 * len(groups) // columns))
        plots.save_image(plots.grid(image, columns=columns, height=height), picture)
    else:
        plots.save_image(plots.grid(x[:100]), picture)
    print(f"{len(x)} samples of step {step}: {config.out}, {picture}")
    if classes and len(groups) > 1:
        print(f"the picture has one row for each class: {', '.join(classes[k] for k in shown)}")
    return x


def draw(config: Config, restored: train.Restored, rows: Sequence[Any]) -> np.ndarray:
    """Returns the images of these `labels`, uint8 [N, H, W, C], one row of labels after another.

    The progress is shown.
    """
    gan, state = restored.gan, restored.state
    size = BATCH if len(rows) == 1 else min(BATCH, config.num)
    key = jax.random.key(config.seed)

    @jax.jit
    def make(start: Array, label: Array | None) -> Array:
        if config.interpolate:
            angle = jnp.pi / 2 * (start + jnp.arange(size)) / max(config.num - 1, 1)
            z = jax.tree.map(partial(_between, angle), random.draw(gan.prior, key, 2))
            x = generate(gan, state, z, label, ema=config.ema)
        else:
            key_batch = jax.random.fold_in(key, start // BATCH)
            x = sample(gan, state, key_batch, size, label, ema=config.ema)
        return quantize(x)

    shape = jax.eval_shape(make, jnp.int32(0), _labels(rows[0], 0, size)).shape[1:]
    x = _room(len(rows) * config.num, shape)
    starts = [(i, start) for i in range(len(rows)) for start in range(0, config.num, size)]
    for i, start in over(starts, f"drawing {len(x):,} samples"):
        images = np.asarray(make(jnp.int32(start), _labels(rows[i], start, size)))
        first, num = i * config.num + start, min(size, config.num - start)
        x[first : first + num] = images[:num]
    return x


def labels(config: Config, restored: train.Restored) -> list[Any]:
    """Returns the labels [num] of the images to draw, for one class after another.

    The labels of an unconditional run are None. Without --label, there is one row in which the
    classes alternate and are as frequent as among the training images.

    Raises:
      UserError: --label is no class of the run.
    """
    classes = restored.classes
    if classes is None:
        if config.label is not None:
            raise UserError(
                f"--label {config.label}: {config.run} was trained without classes; train with "
                "--conditional projection"
            )
        return [None]
    numbers = np.arange(len(classes), dtype=np.int32)
    if config.label is None and not config.interpolate:
        return [_alternating(restored.counts, config.num)]
    if config.label in (None, "all"):
        return [np.full(config.num, number) for number in numbers]
    if config.label in classes:
        number = classes.index(config.label)
    elif config.label.isdecimal() and int(config.label) < len(classes):
        number = int(config.label)
    else:
        named = [name if name == str(k) else f"{k} {name}" for k, name in enumerate(classes)]
        raise UserError(
            f"--label {config.label} is no class of {config.run}: give all, or one of "
            f"{', '.join(named)}"
        )
    return [np.full(config.num, numbers[number])]


def _alternating(counts: Sequence[int], num: int) -> np.ndarray:
    """Returns classes, int32 [num], evenly mixed in the proportions of the counts."""
    place = np.concatenate([(np.arange(count) + 0.5) / count for count in counts])
    label = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return np.resize(label[np.argsort(place, kind="stable")], num)


def _labels(row: np.ndarray | None, start: int, size: int) -> Array | None:
    """Returns the labels [size] of the samples from `start` on. The last ones may be padding."""
    return None if row is None else jnp.asarray(np.resize(row[start:], size))


def _between(angle: Array, ends: Array) -> Array:
    """Returns points [N, ...] between two draws [2, ...] of N(0, I). Each has that distribution."""
    angle = angle.reshape(-1, *[1] * (ends.ndim - 1))
    return jnp.cos(angle) * ends[:1] + jnp.sin(angle) * ends[1:]


def _room(num: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns an uninitialised array uint8 [num, H, W, C] for all images."""
    try:
        return np.empty((num, *shape), np.uint8)
    except (MemoryError, ValueError):  # more than the memory or the address space
        size = num * math.prod(shape) / 2**30
        raise UserError(
            f"--num {num} needs {size:,.1f} GiB of memory: draw fewer at once, with several --seed"
        ) from None
