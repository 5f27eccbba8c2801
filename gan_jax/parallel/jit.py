"""A step compiled for one device."""

from collections.abc import Mapping
from typing import Any

import jax

from gan_jax._cpu import memory
from gan_jax.buffers import Step, donating
from gan_jax.types import PyTree

Arguments = tuple[PyTree, PyTree]
"""The arguments of a step: a state and a batch."""


def jit_step(
    step: Step,
    *,
    donate: bool = True,
    compiler_options: Mapping[str, str] | None = None,
    like: Arguments | None = None,
) -> Step:
    """The step compiled for one device.

    Args:
      step: a pure step.
      donate: whether the state passed in may be overwritten.
      compiler_options: options of XLA for this program alone. On a CPU, `EIGEN` may make it faster.
      like: a state and a batch. The step is then compiled at once, in less memory, and accepts
        only arguments of the same shapes and types: see `memory.compiled`. None: the step is
        compiled when it is called.
    """
    options = None if compiler_options is None else dict(compiler_options)
    compiled = program(step, like, donate, compiler_options=options)
    return donating(compiled) if donate else compiled


def program(step: Step, like: Arguments | None, donate: bool, **options: Any) -> Step:
    options |= {"donate_argnums": 0 if donate else ()}
    return memory.compiled(step, *like, **options) if like else jax.jit(step, **options)
