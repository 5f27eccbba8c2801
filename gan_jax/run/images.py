"""Trains on images, and writes grids of samples, curves and a summary."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gan_jax.algorithms import sample
from gan_jax.data.pipeline import make_batches, on_bytes, quantize
from gan_jax.data.types import Dataset
from gan_jax.metrics.neighbours import nearest
from gan_jax.random import Stream
from gan_jax.run import evaluation, plots, session, watch
from gan_jax.run.checkpoint import saved_steps
from gan_jax.run.folder import Record, RunFolder, best_record, read_config
from gan_jax.run.hooks import Look
from gan_jax.run.loop import Every, signals
from gan_jax.types import GAN, StepFn, TrainState

MOST_ROWS = 16
"""Classes that a picture of samples shows, one to a row."""


def grids(gan: GAN, folder: RunFolder, every: Every, *, num_classes: int | None = None) -> Look:
    """Returns a `Look` that saves grids of 64 samples, always from the same noise.

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
        keys = jax.random.split(key, 64 // evaluation.AT_ONCE)
        x = jax.lax.map(lambda key: sample(gan, state, key, evaluation.AT_ONCE), keys)
        return quantize(x.reshape(-1, *x.shape[2:]))

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
    return near(x, len(samples))(samples)


def near(
    x: np.ndarray, num: int, held_out: np.ndarray | None = None, pixels: int = 32
) -> Callable[[np.ndarray], float | None]:
    """Returns the function `nearness` of samples, prepared for many calls.

    Args:
      x: [M, H, W, C], the training images.
      num: number of training images that replace held-out images.
      held_out: [N, H, W, C]. If given, `num` is not used.
      pixels: rows and columns of larger images are left out evenly.
    """
    thin = np.s_[:, :: -(-x.shape[1] // pixels), :: -(-x.shape[2] // pixels)]

    def flat(images: np.ndarray) -> jax.Array:
        images = images[thin]  # at most 123 MB in colour
        return jnp.asarray(images.reshape(len(images), -1), jnp.float32)

    chosen = np.random.default_rng(0).permutation(len(x))[:10_000]
    first, others = np.split(chosen, [0 if held_out is not None else num])
    training = flat(x[others])
    usual = jnp.median(nearest(flat(x[first] if held_out is None else held_out), training)[0])

    def of(samples: np.ndarray) -> float | None:
        ratio = float(jnp.median(nearest(flat(samples), training)[0]) / usual)
        return ratio if math.isfinite(ratio) else None

    return of


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
    evaluate_every: int | None = None,
    loss: str = "",
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
      evaluate_every: the number of steps between two evaluations: see `evaluation.evaluation`. The
        checkpoint with the lowest Fréchet distance is kept. None: no evaluation.
      loss: the name of the loss in `losses.LOSSES`, or "" for another loss. The display omits
        metrics that mean nothing for it.
      conditional: whether G receives a class. The grids then show one class in each row.

    Returns:
      The last state. Results and exceptions are as for `session.train`.
    """
    with folder.visit():
        folder.samples.mkdir(exist_ok=True)
        num_classes = None
        if conditional and dataset.classes and dataset.label is not None:
            num_classes = len(dataset.classes)
            counts = np.bincount(dataset.label, minlength=num_classes)
            pairs = zip(dataset.classes, counts, strict=True)
            shown = ", ".join(f"{name} ({count:,})" for name, count in [*pairs][:MOST_ROWS])
            announce(
                "samples/ has one row for each class, in this order (with the number of training "
                f"images): {shown}"
            )
        look = grids(gan, folder, sample_every, num_classes=num_classes)
        last = list[np.ndarray]()  # the images of the last grid

        def show(step: int, images: np.ndarray) -> np.ndarray | None:
            last[:] = [images]
            return look.show(step, images)

        evaluated, protocol = None, None
        if evaluate_every is not None:
            near_training = _nearness_during(dataset)
            evaluated, protocol = evaluation.evaluation(
                gan, dataset, evaluate_every, near_training, conditional=conditional
            )
        watched = watch.Watch(loss)
        batches = make_batches(dataset, state.key, (chunk_length, n_critic, batch_size))
        state = session.train(
            on_bytes(step),
            state,
            lambda step: batches(step * n_critic * batch_size),
            folder=folder,
            num_steps=num_steps,
            chunk_length=chunk_length,
            looks=[look._replace(show=show)],
            evaluation=evaluated,
            watch=lambda record: [str(trouble) for trouble in watched.see(record)],
            words=lambda record: plots.in_short(meaningful(record, loss)),
            announce=announce,
            **options,
        )
        done = int(state.generator.step)
        if folder.is_complete(done):
            announce(
                f"{folder.path} is complete at step {done}: a larger num_steps continues it, "
                "unless a schedule ends at num_steps"
            )
        else:
            with signals():  # the run is almost done, so the first signal is ignored
                ratio = nearness(last[0], dataset.x) if last else None
                _finish(folder, done, dataset, ratio, announce, loss, protocol)
    return state


def _nearness_during(dataset: Dataset) -> Callable[[np.ndarray], float | None]:
    """Returns a faster `nearness` for many calls, which also works with few training images."""
    unseen = np.random.default_rng(0).permutation(len(dataset.held_out))[:64]
    held_out = dataset.held_out[unseen] if len(unseen) == 64 else None
    num = min(64, len(dataset.x) // 8)
    if held_out is None and num < 8:
        return lambda samples: None

    @functools.cache  # called at the first evaluation, because the first step comes first
    def prepared() -> Callable[[np.ndarray], float | None]:
        return near(dataset.x, num, held_out, pixels=16)

    return lambda samples: prepared()(samples)


_OF_SIGNS = ("value", "jsd_lower_bound", "real_accuracy", "fake_accuracy")


def meaningful(record: Record, loss: str) -> Record:
    """Returns the metrics of a record that mean something for a loss."""
    if loss not in watch.UNSIGNED:
        return record
    return {name: value for name, value in record.items() if name not in _OF_SIGNS}


def describe(dataset: Dataset, sha256: str = "") -> Record:
    """Returns the record that identifies the data of a run.

    Args:
      dataset: the data.
      sha256: the digest to record. "": that of the data.
    """
    return {
        "name": dataset.name,
        "source": dataset.source,
        "count": len(dataset.x),
        "shape": list(dataset.x.shape[1:]),
        "held_out": len(dataset.held_out),
        "classes": dataset.classes and list(dataset.classes),
        "counts": _counts(dataset),
        "sha256": sha256 or dataset.sha256,
    }


def _counts(dataset: Dataset) -> list[int] | None:
    """Returns the number of training images of each class, or None without classes."""
    if dataset.label is None or dataset.classes is None:
        return None
    return np.bincount(dataset.label, minlength=len(dataset.classes)).tolist()


def _pace(records: Sequence[Record]) -> float:
    """Returns the steps per second of the whole run, without those before the first record."""
    first, last = records[0], records[-1]
    seconds = last.get("seconds", 0.0) - first.get("seconds", 0.0)
    if not seconds > 0:
        return float(last.get("steps_per_second", 0.0))
    return float((last["step"] - first["step"]) / seconds)


def _best(folder: RunFolder, records: Sequence[Record]) -> Record | None:
    """Returns the step and the score of the best checkpoint, or None if there is none."""
    found = best_record(records, watch.SCORE, saved_steps(folder.checkpoints))
    return found and {name: found[name] for name in ("step", watch.SCORE)}


def _finish(
    folder: RunFolder,
    step: int,
    dataset: Dataset,
    ratio: float | None,
    announce: Callable[[str], None],
    loss: str = "",
    protocol: evaluation.Protocol | None = None,
) -> None:
    """Draws the curves and the pictures of the whole run, and writes the summary."""
    records = folder.metrics(announce)
    troubles = watch.troubles(records, loss)
    curves, gif = folder.path / "curves.png", folder.path / "samples.gif"
    plots.curves(
        [meaningful(record, loss) for record in records],
        curves,
        marks={trouble.step: trouble.name for trouble in troubles},
    )
    grids = [path for path in sorted(folder.samples.glob("*.png")) if path.stem.isdecimal()]
    plots.history(grids, gif, folder.path / "history.png", announce=announce)
    folder.summarise(
        {
            "step": step,
            "metrics": {**records[-1], "steps_per_second": _pace(records)} if records else {},
            # The digest in config.json is that of the images' own labels, not of their clusters.
            "data": read_config(folder.path).get("data") or describe(dataset),
            "wall_seconds": session.seconds(records),
            "nearness_to_training_images": ratio,
            "evaluation": protocol and protocol._asdict(),
            "best": _best(folder, records),
            "troubles": [{"name": trouble.name, "step": trouble.step} for trouble in troubles],
        }
    )
    named = {trouble.name for trouble in troubles}
    if ratio is not None and ratio < watch.COPIED and "memorisation" not in named:
        times = 1 / max(ratio, 0.01)
        announce(
            f"warning: the samples are {times:.1f} times nearer to training images than these are "
            "to each other: G may copy them. Use more images, or an augmentation"
        )
    announce(f"done: look at {', '.join(map(str, grids[-1:]))}, {gif} and {curves}")
