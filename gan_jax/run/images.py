"""Trains on images, and writes grids of samples, curves and a summary."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.algorithms import sample
from gan_jax.data.pipeline import make_batches, on_bytes, quantize
from gan_jax.data.types import Dataset
from gan_jax.metrics.neighbours import memorisation
from gan_jax.random import Stream
from gan_jax.run import plots, session
from gan_jax.run.folder import Record, RunFolder
from gan_jax.run.hooks import Every, Look
from gan_jax.run.loop import signals
from gan_jax.types import GAN, StepFn, TrainState

_DRAWN_AT_ONCE = 32
"""Samples drawn per call: smaller batches need less scratch memory and compile faster."""


MOST_ROWS = 16
"""Classes that a picture of samples shows, one to a row."""

COPIED = 0.6
"""The ratio of `nearness` below which G may copy training images. Training digits with
Gaussian noise, of a standard deviation of 10 % of the pixel range, have a ratio of 0.4. Real digits
that are not in the training set have a ratio of 1."""


def grids(
    gan: GAN, folder: RunFolder, every: Every, num: int = 64, *, num_classes: int | None = None
) -> Look:
    """Returns a `Look` that saves grids of `num` samples, always from the same noise.

    With `num_classes`, a grid has a row of eight samples for each of the first classes instead. All
    rows are drawn from the same noise.
    """
    rows = min(num_classes or 0, MOST_ROWS)
    layout = {"columns": 8, "height": min(560, 70 * rows)} if rows else {}

    def sampler(state: TrainState) -> jax.Array:
        key = jax.random.fold_in(state.key, Stream.FIXED_NOISE)
        if rows:
            labels = jnp.arange(rows)
            x = jax.lax.map(lambda label: sample(gan, state, key, 8, jnp.full(8, label)), labels)
            return quantize(x.reshape(-1, *x.shape[2:]))
        keys = jax.random.split(key, -(-num // _DRAWN_AT_ONCE))
        x = jax.lax.map(lambda key: sample(gan, state, key, _DRAWN_AT_ONCE), keys)
        return quantize(x.reshape(-1, *x.shape[2:])[:num])

    def show(step: int, images: np.ndarray) -> np.ndarray:
        picture = plots.grid(images, **layout)
        plots.save_image(picture, folder.samples / f"{step:07d}.png")
        return np.asarray(picture.convert("RGB"))

    return Look(every, sampler, show)


def nearness(samples: np.ndarray, x: np.ndarray) -> float | None:
    """Returns how near samples are to training images, relative to how near training images are to
    each other.

    It is the ratio of `metrics.neighbours.memorisation`, on pixels. A random subset of the training
    images takes the place of held-out images. The subset and the samples are compared with the
    remaining training images.

    Args:
      samples: [N, H, W, C].
      x: [M, H, W, C], the training images. At most 10,000 random ones are compared. Rows and
        columns of images above 32 pixels are left out evenly, to save memory.

    Returns:
      The ratio, or None if there are fewer than 2 N training images or most of them are equal.
    """
    if len(x) < 2 * len(samples):
        return None
    chosen = np.random.default_rng(0).permutation(len(x))[:10_000]
    first, others = np.split(chosen, [len(samples)])
    thin = np.s_[:, :: -(-x.shape[1] // 32), :: -(-x.shape[2] // 32)]  # at most 123 MB in colour
    samples, x = samples[thin], x[thin]
    pixels = [
        jnp.asarray(images.reshape(len(images), -1), jnp.float32)
        for images in (samples, x[others], x[first])
    ]
    ratio = float(memorisation(*pixels).ratio)
    return ratio if math.isfinite(ratio) else None


def train(
    gan: GAN,
    state: TrainState,
    step: StepFn,
    dataset: Dataset,
    *,
    folder: RunFolder,
    num_steps: int,
    batch_size: int,
    n_critic: int,
    chunk_length: int,
    sample_every: Every,
    conditional: bool = False,
    announce: Callable[[str], None] = print,
    **options: Any,
) -> TrainState:
    """Trains on images as `session.train` does, and saves pictures and a summary in the folder.

    Args:
      gan: the networks that draw the samples.
      state, step: the first state, and a train step on float images [n_critic, B, H, W, C].
      dataset: the real images.
      folder: the folder of the run.
      num_steps: number of generator updates.
      batch_size, n_critic: as in Algorithm 1.
      chunk_length, announce, **options: arguments of `session.train`.
      sample_every: the steps after which a grid of samples is drawn, as for `Look.every`.
      conditional: whether G receives a class. The grids then show one class in each row.

    Returns:
      The last state. Results and exceptions are as for `session.train`.
    """
    with folder.visit():
        folder.samples.mkdir(exist_ok=True)
        num_classes = None
        if conditional and dataset.classes:
            num_classes = len(dataset.classes)
            shown = ", ".join(dataset.classes[:MOST_ROWS])
            announce(f"samples/ has one row for each class, in this order: {shown}")
        look = grids(gan, folder, sample_every, num_classes=num_classes)
        last = list[np.ndarray]()  # the images of the last grid

        def show(step: int, images: np.ndarray) -> np.ndarray | None:
            last[:] = [images]
            return look.show(step, images)

        batches = make_batches(dataset, state.key, (chunk_length, n_critic, batch_size))
        state = session.train(
            on_bytes(step),
            state,
            lambda step: batches(step * n_critic * batch_size),
            folder=folder,
            num_steps=num_steps,
            chunk_length=chunk_length,
            looks=[look._replace(show=show)],
            words=plots.in_short,
            announce=announce,
            **options,
        )
        done = int(state.generator.step)
        if folder.is_complete(done):
            announce(f"{folder.path} is complete at step {done}: a larger num_steps continues it")
        else:
            with signals():  # the run is almost done, so the first signal is ignored
                ratio = nearness(last[0], dataset.x) if last else None
                _finish(folder, done, dataset, ratio, announce)
    return state


def describe(dataset: Dataset) -> Record:
    """Returns the record that identifies the data of a run."""
    return {
        "name": dataset.name,
        "source": dataset.source,
        "count": len(dataset.x),
        "shape": list(dataset.x.shape[1:]),
        "held_out": len(dataset.held_out),
        "classes": dataset.classes and list(dataset.classes),
        "sha256": dataset.sha256,
    }


def _finish(
    folder: RunFolder,
    step: int,
    dataset: Dataset,
    ratio: float | None,
    announce: Callable[[str], None],
) -> None:
    """Draws the curves and the pictures of the whole run, and writes the summary."""
    records = folder.metrics(announce)
    curves, gif = folder.path / "curves.png", folder.path / "samples.gif"
    plots.curves(records, curves)
    grids = [path for path in sorted(folder.samples.glob("*.png")) if path.stem.isdecimal()]
    plots.history(grids, gif, folder.path / "history.png", announce=announce)
    folder.summarise(
        {
            "step": step,
            "metrics": records[-1] if records else {},
            "data": describe(dataset),
            "wall_seconds": session.seconds(records),
            "nearness_to_training_images": ratio,
        }
    )
    if ratio is not None and ratio < COPIED:
        announce(
            f"warning: the samples are {1 / ratio:.1f} times nearer to training images than these "
            "are to each other: G may copy them. Use more images, or an augmentation"
        )
    announce(f"done: look at {', '.join(map(str, grids[-1:]))}, {gif} and {curves}")
