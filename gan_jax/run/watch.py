"""Decisions on the records of a run: which trouble they show, if any.

The decisions depend on the records alone, so a resumed run reaches the same ones. Each trouble is
named once in a run, with the metrics that show it and one line of advice. The metrics of
evaluations are those of `gan_jax.run.evaluation`.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from gan_jax.run.folder import Record

SCORE = "frechet_distance"
"""The metric that chooses the best checkpoint: the lowest is the best."""

UNSIGNED = ("wasserstein", "relativistic", "relativistic_average")
"""Losses whose gradients do not change if one number is added to all logits of D. The signs of the
logits then mean nothing."""

COPIED = 0.6
"""The value of `images.nearness` below which G may copy training images. Training digits with
Gaussian noise, of a standard deviation of 10 % of the pixel range, have a ratio of 0.4. Real digits
that are not in the training set have a ratio of 1."""

_LOW = 0.1
"""If variety never reaches this fraction of the data's, the run began collapsed."""

_BALANCE = {
    "minimax": math.log(4),
    "non_saturating": math.log(4),
    "least_squares": 0.25,
    "hinge": 2.0,
    "relativistic": math.log(2),
    "relativistic_average": math.log(4),
}
"""D's loss if D cannot tell real from fake, for losses of which 0 is the lowest value."""

_STEPS = 300
"""Losses are judged over this many steps, and over at least three records."""


class Trouble(NamedTuple):
    """A trouble that the records of a run show.

    Attributes:
      name: the kind of trouble.
      step: the step of the record that shows it first.
      evidence: the metrics that show it.
      advice: the remedies, in one line.
    """

    name: str
    step: int
    evidence: str
    advice: str

    def __str__(self) -> str:
        return f"watch: {self.name} at step {self.step}: {self.evidence}. {self.advice}"


class _Seen(NamedTuple):
    """The records that the rules read, the latest last.

    Attributes:
      recent: the records of the last `_STEPS` steps, and at least the last three.
      evaluations: all records with the metrics of an evaluation, up to the latest record. Empty if
        the latest record has no such metrics.
      balance: D's loss if D cannot tell real from fake. None if the loss has no such value.
    """

    recent: Sequence[Record]
    evaluations: Sequence[Record]
    balance: float | None

    def values(self, name: str) -> list[float]:
        """Returns the values of one metric in the evaluations, the latest last."""
        return [record[name] for record in self.evaluations if name in record]


def _collapse(seen: _Seen) -> str | None:
    *before, now = seen.values("variety") or [0.0]
    highest = max(before, default=0.0)
    if highest < _LOW or now > 0.25 * highest:
        return None
    return f"the variety of the samples fell from {highest:.2f} to {now:.2f} of the data's"


def _low_from_the_start(seen: _Seen) -> str | None:
    # Variety is low at the start of every run. In a healthy run it soon rises.
    late = [record for record in seen.evaluations if record["step"] > 1000]
    if len(late) < 3 or late[-1]["step"] - late[0]["step"] < 2000:
        return None
    first, now = late[0], late[-1]
    improves = now.get("frechet_distance", 0.0) < 0.9 * first.get("frechet_distance", 0.0)
    if improves or max(seen.values("variety")) >= _LOW or now["variety"] > 1.5 * first["variety"]:
        return None
    return (
        f"the variety of the samples never reached {_LOW} of the data's, and hardly rises: it was "
        f"{first['variety']:.3f} at step {first['step']} and is {now['variety']:.3f}"
    )


def _class_gone(seen: _Seen) -> str | None:
    shares = seen.values("rarest_class_share")
    if len(shares) < 3 or max(shares[:-2]) < 0.25 or max(shares[-2:]) > 0.04:
        return None
    number = seen.values("rarest_class")
    if number[-1] != number[-2]:
        return None
    return (
        f"class {number[-1]:.0f} has {shares[-1]:.0%} of its share in the data, and the rarest "
        f"class had {max(shares[:-2]):.0%} before"
    )


def _overfitting(seen: _Seen) -> str | None:
    now = (seen.values("training_above_held_out") or [0.0])[-1]
    if now < 0.75:
        return None
    return f"D ranks {now:.0%} of training images above held-out images (50 % if it knows none)"


def _memorisation(seen: _Seen) -> str | None:
    now = (seen.values("nearness") or [1.0])[-1]
    variety = (seen.values("variety") or [1.0])[-1]
    if now > COPIED or variety < 0.2:  # a collapsed G may hit a training image
        return None
    return f"samples are {now:.2f} times as far from training images as unseen images are"


def _saturation(seen: _Seen) -> str | None:
    losses = [record["discriminator_loss"] for record in seen.recent]
    if seen.balance is None or not all(abs(loss) < 0.02 * seen.balance for loss in losses):
        return None
    gradient = seen.recent[-1].get("generator_gradient_norm")
    of_g = "" if gradient is None else f", and the norm of G's gradient is {gradient:.2g}"
    return f"D's loss is {losses[-1]:.2g}, but {seen.balance:.2f} at equilibrium{of_g}"


def _divergence(seen: _Seen) -> str | None:
    # A constant D has the loss `balance`, so D is of no use far above it.
    for name, times in (("discriminator_loss", 3), ("generator_loss", 10)):
        most = 10_000.0 if seen.balance is None else times * seen.balance
        size = median(abs(record.get(name, 0.0)) for record in seen.recent)
        if size > most:
            return f"{name} has a median size of {size:.3g} in the latest records"
    return None


_RULES: dict[str, tuple[Callable[[_Seen], str | None], str]] = {
    "collapse": (
        _collapse,
        "Lower the learning rates, raise R1, or go back to the best checkpoint",
    ),
    "collapse from the start": (
        _low_from_the_start,
        "Begin again with lower learning rates or a higher R1. If the samples still change, wait",
    ),
    "a class is gone": (
        _class_gone,
        "Train with classes, raise R1, or lower the learning rates",
    ),
    "overfitting of D": (
        _overfitting,
        "Use more images, an augmentation such as diffaugment or ada, or a higher R1",
    ),
    "memorisation": (_memorisation, "Use more images, or an augmentation"),
    "saturation": (
        _saturation,
        "Lower D's learning rate, raise R1, or use the loss non_saturating",
    ),
    "divergence": (_divergence, "Lower the learning rates, or raise R1"),
}
"""Each trouble's rule and advice. A rule returns the evidence, or None if there is no trouble."""

_OF_LOSSES = (_saturation, _divergence)


class Watch:
    """Reads the records of a run in order and names each trouble once.

    Args:
      loss: the name of the loss in `losses.LOSSES`, or "" for another loss.
    """

    def __init__(self, loss: str = "") -> None:
        self._balance = _BALANCE.get(loss)
        self._recent = list[Record]()
        self._evaluations = list[Record]()
        self._named = set[str]()

    def see(self, record: Record) -> list[Trouble]:
        """Returns the troubles that this record is the first to show."""
        step = record["step"]
        self._recent.append(record)
        while len(self._recent) > 3 and self._recent[0]["step"] <= step - _STEPS:
            del self._recent[0]
        evaluated = "variety" in record
        if evaluated:
            self._evaluations.append(record)
        seen = _Seen(self._recent, self._evaluations if evaluated else (), self._balance)
        long_enough = step - self._recent[0]["step"] >= _STEPS // 2
        found = list[Trouble]()
        for name, (rule, advice) in _RULES.items():
            if name in self._named or (rule in _OF_LOSSES and not long_enough):
                continue
            if evidence := rule(seen):
                self._named.add(name)
                found.append(Trouble(name, step, evidence, advice))
        return found


def troubles(records: Sequence[Record], loss: str = "") -> list[Trouble]:
    """Returns the troubles of a run in the order in which its records show them."""
    watch = Watch(loss)
    return [trouble for record in records for trouble in watch.see(record)]
