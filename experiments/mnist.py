"""A GAN of handwritten digits.

`gan-jax train` is the same command without a checkout. Each of the two commands can resume the runs
of the other.
"""

from gan_jax.run import cli
from gan_jax.run.commands import train
from gan_jax.run.commands.train import Config, build, check, main

__all__ = ["Config", "build", "check", "main"]

if __name__ == "__main__":
    cli.run(main, Config, train.__doc__ or "")
