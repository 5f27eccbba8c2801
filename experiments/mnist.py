"""A GAN of handwritten digits.

`gan-jax train` is the same command without a checkout; either resumes the other's runs.
"""

from gan_jax.run.commands.train import Config, build, check, command, main

__all__ = ["Config", "build", "check", "main"]

if __name__ == "__main__":
    command()
