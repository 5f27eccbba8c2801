"""A GAN of any images, such as the PNG and JPEG files of a folder.

`gan-jax train --recipe dcgan` is the same command without a checkout.
"""

from gan_jax.run import cli
from gan_jax.run.commands import train
from gan_jax.run.commands.recipes import RECIPES
from gan_jax.run.commands.train import Config, build, check, main

__all__ = ["Config", "build", "check", "main"]

if __name__ == "__main__":
    cli.run(main, Config, train.__doc__ or "", recipes=RECIPES, recipe="dcgan")
