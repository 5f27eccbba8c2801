"""Scores generated images against real images.

`gan-jax evaluate` is the same command without a checkout.
"""

from gan_jax.run import cli
from gan_jax.run.commands import evaluate
from gan_jax.run.commands.evaluate import Config, main

__all__ = ["Config", "main"]

if __name__ == "__main__":
    cli.run(main, Config, evaluate.__doc__ or "")
