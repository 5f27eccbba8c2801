"""The requests of `benchmarks.gpu.speed` to its workers. This module needs only numpy."""

import dataclasses
import functools
from typing import Any

import numpy as np

from benchmarks import problem
from benchmarks.cases import Case, from_json
from benchmarks.workers.protocol import Setting

IMAGES = 2048
"""Number of images in the data set. They are noise, which does not affect the speed."""


def request(
    contender: str, case: Case, batch_size: int, precision: str, *, checked: bool = False
) -> dict[str, Any]:
    """Returns the argument of `read`. `checked` is True if losses will be compared."""
    return {
        "contender": contender,
        "case": dataclasses.asdict(case),
        "batch_size": batch_size,
        "precision": precision,
        "checked": checked,
    }


def read(request: dict[str, Any]) -> Setting:
    """Returns the setting of a request, with weights, noise and images from a fixed seed."""
    case = from_json(request["case"])
    made = _problem(case, int(request["batch_size"]))
    return Setting(request["contender"], case, made, fixed=False, precision=request["precision"])


@functools.lru_cache(maxsize=1)  # the precisions of a case are adjacent
def _problem(case: Case, batch_size: int) -> problem.Problem:
    shape = (max(batch_size, IMAGES), 28, 28, 1)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return problem.make(case, batch_size, 0, images)
