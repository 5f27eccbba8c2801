"""Metrics of a GAN of images during training: its Fréchet distance, and metrics for `watch`."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from gan_jax.algorithms import sample
from gan_jax.contract import check_output
from gan_jax.data.pipeline import dequantize, quantize
from gan_jax.data.types import Dataset
from gan_jax.metrics import frechet
from gan_jax.metrics.distances import squared_distance_blocks
from gan_jax.metrics.extractor import Extractor
from gan_jax.metrics.extractors import EXTRACTORS, made_for, takes
from gan_jax.random import Stream
from gan_jax.run.folder import Record
from gan_jax.run.hooks import Evaluation
from gan_jax.run.loop import Every
from gan_jax.run.watch import SCORE
from gan_jax.types import GAN, Array, TrainState

AT_ONCE = 32
"""Samples drawn per call: smaller batches need less scratch memory and compile faster."""

_DRAWN = 1024
"""Samples of the averaged G that the Fréchet distance compares with real images."""

_WATCHED = 256
"""Samples of the live G, and images of each kind, that the other metrics are computed from."""

_REFERENCE = 5000
"""The Fréchet distance uses at most this many real images."""

_COMMON = 0.02
"""A class is looked for among the samples if at least this share of the real images has it."""


class Protocol(NamedTuple):
    """The protocol of a run's Fréchet distance.

    Attributes:
      extractor: the name of the feature extractor.
      reference: the number and the origin of the real images, such as "1,000 held-out images".
      samples: the number of samples of the averaged G.
    """

    extractor: str
    reference: str
    samples: int


def pooled(size: int = 8) -> Extractor:
    """Returns an extractor whose features are pixels, averaged to at most `size` x `size`."""

    def features(x: NDArray[np.uint8]) -> NDArray[np.float32]:
        sums = np.add.reduceat(x.astype(np.float32), _edges(x.shape[1], size), axis=1)
        sums = np.add.reduceat(sums, _edges(x.shape[2], size), axis=2)
        counts = [
            np.diff(_edges(length, size), append=length).astype(np.float32)
            for length in x.shape[1:3]
        ]
        means = sums / (255 * np.multiply.outer(*counts)[None, :, :, None])
        return means.reshape(len(x), -1)

    return Extractor(f"pixels averaged to {size}x{size}", features)


def _edges(length: int, size: int) -> NDArray[np.intp]:
    """Returns the first index of each of `size` parts, or of `length` parts if there are fewer."""
    parts = min(length, size)
    return np.arange(parts) * length // parts


def default_extractor(dataset: Dataset) -> Extractor:
    """Returns the classifier of the data set, the digit classifier without its classes for other
    grey images of 28x28 pixels, and averaged pixels for others."""
    shape = dataset.x.shape[1:]
    if name := made_for(dataset.name, shape):
        return EXTRACTORS[name]
    return EXTRACTORS["digits"]._replace(probabilities=None) if takes(shape) else pooled()


def evaluation(
    gan: GAN,
    dataset: Dataset,
    every: Every,
    nearness: Callable[[np.ndarray], float | None],
    *,
    conditional: bool = False,
) -> tuple[Evaluation, Protocol]:
    """Returns the evaluation of a GAN during training, and its protocol.

    Real images are the held-out ones if there are at least 256 of them, otherwise training images.
    All random choices are fixed, so a resumed run gives the same metrics.

    Metrics of the averaged G:
      frechet_distance: Fréchet distance of samples to real images, on the extractor's features.
      nearness: the result of `nearness`, if there is one.

    Metrics of the live networks, which show problems earlier:
      variety: `effective_number` of samples, divided by that of as many real images.
      real_above_fake: the probability that D's logit for a training image is above that for a
        sample. It is 1 if D tells all of them apart and 0.5 if D cannot.
      training_above_held_out: the probability that D's logit for a training image is above that for
        a held-out image. It is 0.5 unless D knows the training images.
      rarest_class, rarest_class_share: the class with the smallest share among the samples,
        relative to its share among the real images, and this ratio. Only if the extractor is a
        classifier.

    Args:
      gan: the networks.
      dataset: the real images.
      every: the steps after which the metrics are computed, as for `Hook.every`.
      nearness: samples uint8 [N, H, W, C] -> their distance to training images, relative to the
        distance of unseen images, or None.
      conditional: whether the networks receive a class. Samples then have the classes of training
        images.
    """
    extractor = default_extractor(dataset)
    # A source may have its images in the order of their classes.
    chosen = np.random.default_rng(0).permutation(len(dataset.x))
    unseen = np.random.default_rng(0).permutation(len(dataset.held_out))
    held_out = len(unseen) >= _WATCHED
    real = dataset.held_out[unseen[:_REFERENCE]] if held_out else dataset.x[chosen[:_REFERENCE]]
    origin = "held-out" if held_out else "training"
    protocol = Protocol(extractor.name, f"{len(real):,} {origin} images", _DRAWN)

    label = dataset.label if conditional else None
    training = np.resize(chosen, _WATCHED)
    shown = {"training": (dataset.x[training], None if label is None else label[training])}
    held_out_label = dataset.held_out_label if conditional else None
    if held_out and (not conditional or held_out_label is not None):
        some = unseen[:_WATCHED]
        of_some = None if held_out_label is None else held_out_label[some]
        shown["held_out"] = dataset.held_out[some], of_some
    labels = None if label is None else label[np.resize(chosen, _DRAWN)]
    device = jax.device_put((shown, labels))

    @jax.jit
    def see(state: TrainState, shown: Any, labels: Array | None) -> dict[str, Any]:
        key = jax.random.fold_in(state.key, Stream.FIXED_NOISE)

        def draw(num: int, ema: bool) -> Array:
            keys = jax.random.split(jax.random.fold_in(key, ema), num // AT_ONCE)
            of = None if labels is None else labels[:num].reshape(-1, AT_ONCE)
            x = jax.lax.map(
                lambda one: quantize(sample(gan, state, one[0], AT_ONCE, one[1], ema=ema)),
                (keys, of),
            )
            return x.reshape(-1, *x.shape[2:])

        def judge(x: Array, label: Array | None) -> Array:
            def some(one: tuple[Array, Array | None]) -> Array:
                of_d = state.discriminator
                output = gan.discriminator.apply(
                    of_d.params, of_d.model_state, dequantize(one[0]), one[1], train=False, key=key
                )[0]
                logits = check_output(output, AT_ONCE, "the discriminator").logits
                return logits.reshape(AT_ONCE, -1).mean(axis=1)

            batches = jax.tree.map(lambda a: a.reshape(-1, AT_ONCE, *a.shape[1:]), (x, label))
            return jax.lax.map(some, batches).reshape(-1)

        live = draw(_WATCHED, ema=False)
        shown = {**shown, "fake": (live, None if labels is None else labels[:_WATCHED])}
        return {
            "averaged": draw(_DRAWN, ema=True),
            "live": live,
            "logits": {name: judge(*of) for name, of in shown.items()},
        }

    reference = _Reference(extractor, real)

    def measure(made: dict[str, Any]) -> Record:
        figures = reference.compare(made["averaged"], made["live"])
        logits = made["logits"]
        figures["real_above_fake"] = above(logits["training"], logits["fake"])
        if "held_out" in logits:
            figures["training_above_held_out"] = above(logits["training"], logits["held_out"])
        figures["nearness"] = nearness(made["averaged"][:64])
        return {name: value for name, value in figures.items() if value is not None}

    return Evaluation(every, lambda state: see(state, *device), measure, SCORE), protocol


class _Reference:
    """The features of the real images, computed at the first use."""

    def __init__(self, extractor: Extractor, x: NDArray[np.uint8]) -> None:
        self._extractor, self._x = extractor, x
        self._statistics: Any = None

    def _prepare(self) -> None:
        features = self._extractor.features(self._x)
        self._statistics = frechet.statistics(features)
        some = features[:_WATCHED]
        self._width = typical_distance(some)
        self._distinct = effective_number(some, self._width)
        if self._extractor.probabilities is not None:
            probabilities = self._extractor.probabilities(self._x)
            self._shares = _shares(probabilities)

    def compare(self, averaged: NDArray[np.uint8], live: NDArray[np.uint8]) -> Record:
        if self._statistics is None:
            self._prepare()
        features = self._extractor.features
        distance = frechet.gaussian_distance(
            *frechet.statistics(features(averaged)), *self._statistics
        )
        number = effective_number(features(live), self._width)
        figures: Record = {SCORE: distance, "variety": number / self._distinct}
        if self._extractor.probabilities is not None:
            of_samples = _shares(self._extractor.probabilities(live))
            common = np.flatnonzero(self._shares >= _COMMON)
            ratios = of_samples[common] / self._shares[common]
            figures["rarest_class"] = int(common[ratios.argmin()])
            figures["rarest_class_share"] = float(ratios.min())
        return figures


def _shares(probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
    classes = probabilities.shape[1]
    return np.bincount(probabilities.argmax(axis=1), minlength=classes) / len(probabilities)


def above(a: np.ndarray, b: np.ndarray) -> float | None:
    """Returns the probability that a number in `a` is above one in `b`. Ties count one half.

    The result is None if a number is not finite.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    ordered = np.sort(b)
    below = np.searchsorted(ordered, a, "left") + np.searchsorted(ordered, a, "right")
    return float(below.mean() / (2 * len(b)))


def typical_distance(features: np.ndarray) -> float:
    """Returns the median distance from a row of `features` [N, D] to the nearest other row."""
    squared = _squared_distances(features)
    np.fill_diagonal(squared, np.inf)
    return float(np.sqrt(np.median(squared.min(axis=1))))


def effective_number(features: np.ndarray, width: float) -> float:
    """Returns the number of distinct rows of `features` [N, D], between 1 and N.

    The result is 1 / mean(exp(-d^2 / width^2)), with the mean over the distances d of all pairs of
    rows (the diversity of order 2 of Leinster and Cobbold 2012). The result is 1 if all rows are
    equal. It is K if the rows are K equally frequent points much farther apart than `width`.
    """
    if not width > 0:
        return float(len(np.unique(features, axis=0)))
    return float(1 / np.exp(-_squared_distances(features) / width**2).mean())


def _squared_distances(x: np.ndarray) -> NDArray[np.float64]:
    return np.concatenate([block for _, block in squared_distance_blocks(x, x)])
