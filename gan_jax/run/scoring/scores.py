"""Scores of generated images against real images, each with its spread and its real-to-real floor.

The spread of a score is its standard deviation over random halves of both sets, drawn without
replacement. If a score needs labels, a half contains half of the images of each class. For smooth
scores the spread estimates the standard error of the whole sets: halving a set doubles the
variance, and drawing without replacement cancels this. No image appears twice, because copies
would distort scores of nearest neighbours.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gan_jax.errors import UserError
from gan_jax.metrics.frechet import frechet_distance, intra_class_frechet_distance
from gan_jax.metrics.inception_score import classifier_score
from gan_jax.metrics.kernel import SUBSET_SIZE, kernel_distance
from gan_jax.metrics.manifolds import prdc
from gan_jax.metrics.modes import class_coverage
from gan_jax.metrics.sliced import sliced_wasserstein
from gan_jax.metrics.two_sample import classifier_two_sample
from gan_jax.run.progress import over

K = 5
"""The neighbour that the balls of precision, recall, density and coverage reach to."""
SUBSETS = 100
"""Number of subsets of the kernel distance."""
_SUBSETS_OF_HALVES = 10
"""Number of subsets in a half, where they only serve the spread."""


class Side(NamedTuple):
    """The arrays from which scores of a set of images are computed.

    Attributes:
      features: [N, D].
      probabilities: [N, K] class probabilities, or None if no score needs them.
      label: [N] classes, or None. Those of generated images are the classes that G was given.
      distance: [N] distance to the nearest training image. None if the training images are unknown
        or if the reference contains them.
    """

    features: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = None
    label: NDArray[np.int32] | None = None
    distance: NDArray[np.float32] | None = None

    def take(self, index: NDArray[np.intp]) -> "Side":
        """Returns the images with these indices."""
        return Side(*(None if array is None else array[index] for array in self))  # type: ignore[arg-type]


class Sides(NamedTuple):
    """The sets that are compared.

    Attributes:
      fake, real: generated images, and the reference.
      seed: the seed of the metrics that draw at random.
      subsets: the number of subsets of the kernel distance.
    """

    fake: Side
    real: Side
    seed: int = 0
    subsets: int = SUBSETS


class Metric(NamedTuple):
    """A metric of the command.

    Attributes:
      compute: returns the scores in the order of `scores`.
      scores: the name of each score, with the better direction: "higher", "lower" or a number.
      settings: the settings of the metric in words, for the record.
      needs: the names of the attributes of `Side` that it needs on both sides, except features.
      least: the least number of images on each side.
      of_class: the least number of images of every class on each side.
      floor: whether the score of real images shows what a perfect generator would get.
    """

    compute: Callable[[Sides], Sequence[float]]
    scores: Mapping[str, str]
    settings: str = ""
    needs: tuple[str, ...] = ()
    least: int = 4
    of_class: int = 0
    floor: bool = True


def _frechet(sides: Sides) -> Sequence[float]:
    return [frechet_distance(sides.fake.features, sides.real.features)]


def _kernel(sides: Sides) -> Sequence[float]:
    a, b = sides.fake.features, sides.real.features
    return [kernel_distance(a, b, sides.seed, subsets=sides.subsets).distance]


def _prdc(sides: Sides) -> Sequence[float]:
    return prdc(sides.real.features, sides.fake.features, k=K)


def _classifier_score(sides: Sides) -> Sequence[float]:
    return [classifier_score(_probabilities(sides.fake), splits=1).mean]


def _classes(sides: Sides) -> Sequence[float]:
    probabilities = _probabilities(sides.fake)
    found = class_coverage(probabilities.argmax(axis=1), probabilities.shape[1])
    return [float(found.captured), float(found.reverse_kl)]


def _memorisation(sides: Sides) -> Sequence[float]:
    assert sides.fake.distance is not None
    assert sides.real.distance is not None
    return [float(np.median(sides.fake.distance) / np.median(sides.real.distance))]


def _label_agreement(sides: Sides) -> Sequence[float]:
    assert sides.fake.label is not None
    return [float(np.mean(_probabilities(sides.fake).argmax(axis=1) == sides.fake.label))]


def _intra_class(sides: Sides) -> Sequence[float]:
    fake, real = sides.fake, sides.real
    assert fake.label is not None
    assert real.label is not None
    return [
        intra_class_frechet_distance(fake.features, fake.label, real.features, real.label).distance
    ]


def _sliced(sides: Sides) -> Sequence[float]:
    return [sliced_wasserstein(sides.fake.features, sides.real.features, sides.seed)]


def _two_sample(sides: Sides) -> Sequence[float]:
    fake, real = sides.fake.features, sides.real.features
    return [classifier_two_sample(fake, real, sides.seed).accuracy]


def _probabilities(side: Side) -> NDArray[np.float32]:
    assert side.probabilities is not None
    return side.probabilities


METRICS: dict[str, Metric] = {
    "frechet": Metric(_frechet, {"frechet": "lower"}),
    "kernel": Metric(
        *(_kernel, {"kernel": "lower"}),
        f"mean of {SUBSETS} subsets of at most {SUBSET_SIZE:,} images",
    ),
    "prdc": Metric(
        _prdc,
        {"precision": "higher", "recall": "higher", "density": "1", "coverage": "higher"},
        f"k = {K}",
        least=2 * (K + 1),
    ),
    "classifier_score": Metric(
        *(_classifier_score, {"classifier_score": "higher"}),
        "one split",
        needs=("probabilities",),
    ),
    "classes": Metric(
        _classes,
        {"classes": "higher", "classes_reverse_kl": "lower"},
        "classes that the classifier sees, and KL(their histogram, uniform) in nats",
        needs=("probabilities",),
    ),
    "memorisation": Metric(
        _memorisation,
        {"memorisation": "1"},
        "median distance to the nearest training image, divided by that of the reference",
        needs=("distance",),
        floor=False,
    ),
    "label_agreement": Metric(
        *(_label_agreement, {"label_agreement": "higher"}),
        "share of images that the classifier puts into their class",
        needs=("probabilities", "label"),
    ),
    "intra_class": Metric(
        *(_intra_class, {"intra_class_frechet": "lower"}),
        "mean Fréchet distance within a class",
        needs=("label",),
        of_class=2,
    ),
    "sliced_wasserstein": Metric(_sliced, {"sliced_wasserstein": "lower"}, "128 directions"),
    "two_sample": Metric(
        *(_two_sample, {"two_sample_accuracy": "0.5"}),
        "accuracy of a classifier by nearest neighbours; 0.5 if it cannot tell",
        least=8,
    ),
}
"""The metrics by name. To add one, add a line."""

DEFAULT = tuple(METRICS)[:8]
"""The metrics that are computed if none is named, as far as their needs are met."""


class Score(NamedTuple):
    """A score, its spread and the score of real images.

    Attributes:
      name: the name of the score.
      value: the score of the generated images.
      spread: its standard deviation over halves, or None if there are none.
      floor: the score of real images, or None.
      better: "higher", "lower" or the number that is best.
    """

    name: str
    value: float
    spread: float | None
    floor: float | None
    better: str


def measure(names: Sequence[str], sides: Sides, floor: Sides, *, resamplings: int) -> list[Score]:
    """Returns the scores of these metrics. The progress is shown on stderr.

    Args:
      names: names in `METRICS`.
      sides: the generated images and the reference.
      floor: other real images in the place of the generated ones.
      resamplings: number of random halves for the spread. 0 or 1: no spread.

    Raises:
      UserError: a metric cannot be computed from these images.
    """
    num = resamplings if resamplings > 1 else 0
    parts = [
        (name, part)
        for name in names
        for part in ("fake", "floor", *range(num))  # a number stands for random halves
        if part != "floor" or (METRICS[name].floor and _suffices(floor, METRICS[name]))
    ]
    found = dict[tuple[str, str | int], Sequence[float]]()
    for name, part in over(parts, "scores", lambda part: part[0]):
        metric = METRICS[name]
        if isinstance(part, int):
            compared = _half(sides, part, by_class="label" in metric.needs)
        else:
            compared = floor if part == "floor" else sides
        try:
            found[name, part] = metric.compute(compared)
        except ValueError as error:
            raise UserError(f"--metrics {name} cannot be computed: {error}") from error
    return [
        Score(
            score,
            found[name, "fake"][i],
            float(np.std([found[name, half][i] for half in range(num)], ddof=1)) if num else None,
            found[name, "floor"][i] if (name, "floor") in found else None,
            better,
        )
        for name in names
        for i, (score, better) in enumerate(METRICS[name].scores.items())
    ]


def _suffices(sides: Sides, metric: Metric) -> bool:
    """Returns whether both sides have what a metric needs."""
    enough = not metric.of_class or (
        least_of_class(sides.fake.label, sides.real.label) >= metric.of_class
    )
    return enough and all(
        len(side.features) >= metric.least
        and all(getattr(side, need) is not None for need in metric.needs)
        for side in (sides.fake, sides.real)
    )


def least_of_class(a: NDArray[np.int32] | None, b: NDArray[np.int32] | None) -> int:
    """Returns the number of images of the rarest class on either side, 0 without classes."""
    if a is None or b is None:
        return 0
    classes = np.union1d(a, b)
    return min(int(np.sum(label == number)) for label in (a, b) for number in classes)


def two_halves(
    num: int, label: NDArray[np.int32] | None, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Returns the sorted indices of random halves of `num` images.

    The first half has `num // 2` images. With labels, each half has half of each class.
    """
    order = rng.permutation(num)
    if label is None:
        return np.sort(order[: num // 2]), np.sort(order[num // 2 :])
    order = order[np.argsort(label[order], kind="stable")]
    return np.sort(order[1::2]), np.sort(order[::2])


def _half(sides: Sides, number: int, *, by_class: bool) -> Sides:
    """Returns random halves of both sets. `number` seeds the choice."""
    rng = np.random.default_rng([sides.seed, number])
    fake, real = (
        side.take(two_halves(len(side.features), side.label if by_class else None, rng)[0])
        for side in (sides.fake, sides.real)
    )
    return sides._replace(fake=fake, real=real, subsets=_SUBSETS_OF_HALVES)
