"""Decisions on the records of a run: which trouble they show, if any.

`Watch.see` reads one record after another. It decides from the records alone, so a resumed run
reaches the same decisions. Each trouble is named once in a run.
"""

from typing import NamedTuple
from collections.abc import Sequence
from gan_jax.run.folder import Record


class Trouble(NamedTuple):
    name: str
    step: int
    evidence: str
    advice: str


class Watch:
    def __init__(self, loss: str = "") -> None:
        pass

    def see(self, record: Record) -> list[str]:
        return []


def troubles(records: Sequence[Record], loss: str = "") -> list[Trouble]:
    return []


UNSIGNED = ("wasserstein", "relativistic", "relativistic_average")
"""Losses whose gradients do not change if one number is added to all logits of D. The signs of the
logits then mean nothing."""
