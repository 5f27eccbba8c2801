"""Samples of a trained run.

`gan-jax sample` is the same command without a checkout.
"""

from gan_jax.run.commands.sample import Config, command, main

__all__ = ["Config", "main"]

if __name__ == "__main__":
    command()
