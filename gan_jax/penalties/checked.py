"""Assertions on what a penalty is given."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from gan_jax.contract import check_samples, one_each
from gan_jax.types import Array, Critic

_P = ParamSpec("_P")


_R = TypeVar("_R")


def checked(
    penalty: Callable[Concatenate[Critic, Array, Array, Array, _P], _R],
) -> Callable[Concatenate[Critic, Array, Array, Array, _P], _R]:
    """The penalty, after assertions on the shapes of the samples and of the critic's logits."""

    @wraps(penalty)
    def call(
        critic: Critic, real: Array, fake: Array, key: Array, *args: _P.args, **options: _P.kwargs
    ) -> _R:
        def logits(x: Array) -> Array:
            return one_each(critic(x), x.shape[0], "the critic")

        check_samples(real, fake)
        return penalty(logits, real, fake, key, *args, **options)

    return call
