"""Initialises a run with the weights of another run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gan_jax.buffers import unshared
from gan_jax.errors import UserError
from gan_jax.types import Array, TrainState

_NAMED = 12
"""Arrays of one kind that a message names."""


def warm_start(
    state: TrainState,
    other: TrainState,
    source: str,
    announce: Callable[[str], None] = print,
) -> TrainState:
    """Returns the state with copies of another run's arrays, where path and shape are the same.

    Parameters, model states (such as running statistics) and the moving averages are copied.
    Optimizer states, memories and step counts are not.

    Args:
      state: the first state of a new run.
      other: a state of the other run.
      source: the origin of the other state, for messages.
      announce: called with messages that name the arrays that were not copied.

    Raises:
      UserError: no weights fit.
    """
    found, mine = _arrays(other), _arrays(state)
    fits = {path for path in mine if path in found and found[path].shape == mine[path].shape}
    if not any(mine[path].ndim > 1 for path in fits):  # biases fit many networks
        raise UserError(f"no weights of {source} fit these networks")
    announce(f"started from {source}: {len(fits)} of {len(mine)} arrays were copied")
    anew = [
        f"{path} {list(leaf.shape)}"
        + (f" (there {list(found[path].shape)})" if path in found else "")
        for path, leaf in mine.items()
        if path not in fits
    ]
    _say("not copied", anew, announce)
    _say("only in the other run", [path for path in found if path not in mine], announce)

    def take(path: Any, own: Array) -> Array:
        name = jax.tree_util.keystr(path)
        return jnp.array(found[name], own.dtype) if name in fits else own

    return unshared(jax.tree.map_with_path(take, state))


def _say(what: str, paths: list[str], announce: Callable[[str], None]) -> None:
    if not paths:
        return
    announce(f"  {what}:")
    for path in paths[:_NAMED]:
        announce(f"    {path}")
    if len(paths) > _NAMED:
        announce(f"    and {len(paths) - _NAMED} more")


_COPIED = (
    ".generator.params",
    ".generator.model_state",
    ".discriminator.params",
    ".discriminator.model_state",
    ".ema_params",
    ".ema_model_state",
)
"""The paths in the state at which arrays are copied begin with one of these."""


def _arrays(state: TrainState) -> dict[str, Array]:
    """Returns the arrays that may be copied, by their path in the state."""
    named = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}
    return {path: leaf for path, leaf in named.items() if path.startswith(_COPIED)}
