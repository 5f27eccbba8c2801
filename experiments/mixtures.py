"""What `mixture_2d` and `mixture_table` share: distributions in the plane, networks, figures."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import many
from gan_jax import GAN, TrainState, priors, sample
from gan_jax.data.synthetic import DISTRIBUTIONS, Distribution, standardised
from gan_jax.metrics.modes import mode_coverage
from gan_jax.metrics.two_sample import energy_test
from gan_jax.models.mlp import mlp
from gan_jax.run import cli
from gan_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Recipe(many.Rules):
    """What is learned, by which networks and game, for how long, how often."""

    data: Literal["ring", "grid", "cascade", "swiss_roll", "two_moons", "spiral"] = "ring"
    """The distribution of the real samples."""
    latent: int = 2
    """Dimensions of z."""
    latent_scale: float = 4.0
    """Standard deviation of z: the wider, the less of it lies on the way from mode to mode."""
    width: int = 64
    """Units in a hidden layer of either network."""
    generator_depth: int = 4
    """Hidden layers of G."""
    discriminator_depth: int = 4
    """Hidden layers of D."""
    generator_slope: float = 0.0
    """Of G's leaky ReLUs below 0; 0: ReLUs."""
    draws: int = 10
    """How often the modes are counted, in new samples each time: the figures are the means, lest
    a seed pass for worse or better than another by the luck of its samples."""


def check(recipe: Recipe) -> None:
    """Raises `UserError` for values that no run could use."""
    many.check(recipe)
    counts = ("latent", "width", "generator_depth", "discriminator_depth", "draws")
    cli.check_at_least(recipe, **dict.fromkeys(counts, 1))
    cli.check_above_zero(recipe, "latent_scale")


def data(recipe: Recipe) -> tuple[Distribution, float]:
    """The distribution in units of its root mean square, and that unit in the data's own."""
    return standardised(DISTRIBUTIONS[recipe.data]())


def build(recipe: Recipe, distribution: Distribution) -> many.Game:
    """The game that the settings describe."""

    def of_depth(depth: int) -> GAN:
        return mlp(
            (2,),
            width=recipe.width,
            depth=depth,
            bounded=False,
            generator_slope=recipe.generator_slope,
        )

    gan = GAN(
        of_depth(recipe.generator_depth).generator,
        of_depth(recipe.discriminator_depth).discriminator,
        priors.normal(recipe.latent, recipe.latent_scale),
    )
    return many.play(recipe, gan, distribution, (2,))


def measure(
    recipe: Recipe, distribution: Distribution, draw: Callable[..., Array], key: Array
) -> dict[str, Array]:
    """The figures of a sampler, each [].

    Keys: if there are modes, those of `mode_coverage`, means over the draws; and of one draw
    `energy_distance` and its `p_value`, against as many real samples.

    Args:
      recipe: which data there are, how many samples are in a draw, how many draws.
      distribution: of the real samples.
      draw: `(key, num) -> x [num, 2]`.
      key: of the draws and of the test.
    """
    key_real, key_test, key_draws = jax.random.split(key, 3)
    keys = jax.random.split(key_draws, recipe.draws)
    x = draw(keys[0], recipe.num_samples)
    tested = energy_test(x, distribution.sample(key_real, len(x)), key_test)
    figures = {"energy_distance": tested.distance, "p_value": tested.p_value}
    if len(distribution.modes):
        modes, scale = jnp.asarray(distribution.modes), jnp.asarray(distribution.scale)
        counted = jax.lax.map(
            lambda key: mode_coverage(draw(key, recipe.num_samples), modes, scale), keys
        )
        figures |= {name: jnp.mean(values) for name, values in counted._asdict().items()}
    return figures


def figures_of(
    recipe: Recipe, game: many.Game, distribution: Distribution, states: TrainState
) -> dict[str, dict[str, list[float]]]:
    """The figures seed by seed, of the GANs and of a sampler that is perfect."""
    keys = jax.vmap(jax.random.key)(jnp.arange(recipe.seeds))

    def of_both(each: tuple[TrainState, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        state, key = each
        key_gan, key_perfect = jax.random.split(key)
        return (
            measure(recipe, distribution, partial(sample, game.gan, state), key_gan),
            measure(recipe, distribution, distribution.sample, key_perfect),
        )

    # One after the other: the test holds all distances between the samples.
    found = jax.jit(lambda *each: jax.lax.map(of_both, each))(states, keys)
    return {
        who: {name: np.asarray(values, float).tolist() for name, values in figures.items()}
        for who, figures in zip(("gan", "perfect_sampler"), found, strict=True)
    }
