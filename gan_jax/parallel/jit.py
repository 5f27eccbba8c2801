"""A step compiled for one device."""

from collections.abc import Mapping

import jax

from gan_jax.buffers import Step, donating


def jit_step(
    step: Step,
    *,
    donate: bool = True,
    compiler_options: Mapping[str, str] | None = None,
) -> Step:
    """Returns the step compiled for one device.

    Args:
      step: a pure step.
      donate: whether the state passed in may be overwritten.
      compiler_options: options of XLA for this program alone. On a CPU, the program may be faster
        with `EIGEN`.
    """
    options = None if compiler_options is None else dict(compiler_options)
    compiled = jax.jit(step, donate_argnums=0 if donate else (), compiler_options=options)
    return donating(compiled) if donate else compiled
