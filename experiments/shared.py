"""Parts that several experiments share."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gan_jax import Network
from gan_jax.parallel import Step
from gan_jax.run import Look, RunFolder, plots, train
from gan_jax.run.loop import Every
from gan_jax.types import Array, PyTree

Seen = dict[str, np.ndarray]
"""Named arrays [N, ...] computed at N steps of a training. `step` [N] has the step numbers."""


def bare(params: PyTree, apply: Callable[[PyTree, Array], Array]) -> Network:
    """Returns the network `apply(params, x)` with the initial parameters `params`."""
    return Network(
        lambda *_: (params, {}), lambda params, state, x, *_, **__: (apply(params, x), state)
    )


def watched(
    folder: RunFolder,
    name: str,
    step: Step,
    state: PyTree,
    see: Callable[[Any], dict[str, Array]],
    *,
    every: Every,
    num_steps: int,
    **options: Any,
) -> tuple[PyTree, Seen]:
    """Trains in the folder `trainings/NAME` of a run, and calls `see` on some states.

    Args:
      folder: the run's folder.
      name: the training's name.
      step, state, num_steps, **options: as for `gan_jax.run.train`.
      see: a pure function of the state that returns named arrays.
      every: the steps after which `see` is called, as in `Look`. It is also called on the first and
        the last state.

    Returns:
      The last state, and all results of `see`.
    """
    part = folder.part(f"trainings/{name}")
    looks = [Look(every, see, part.keep)]
    options = {"folder": part, "num_steps": num_steps, "looks": looks, **options}
    state = train(step, state, words=plots.in_short, **options)
    steps, found = zip(*part.kept(), strict=True)
    columns = {name: np.stack([arrays[name] for arrays in found]) for name in found[0]}
    return state, {"step": np.array(steps), **columns}
