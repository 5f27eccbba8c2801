"""Draws samples from a trained run.

`gan-jax sample` is the same command without a checkout.
"""

from gan_jax.run import cli
from gan_jax.run.commands import sample
from gan_jax.run.commands.sample import Config, main

__all__ = ["Config", "main"]

if __name__ == "__main__":
    cli.run(main, Config, sample.__doc__ or "")
