"""Trains many GANs in one program, on a distribution in the plane with a known density.

The experiment measures how many modes are found, how sharp they are and whether they are drawn
equally often, as VEEGAN (Srivastava et al. 2017) and PacGAN (Lin et al. 2018) do. It also measures
a perfect sampler. At the end it writes training.gif (the first seed's samples over D's level sets),
seeds.png and summary.json to --workdir. The same command resumes a run that was stopped.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments import many
from gan_jax import GAN, TrainState, parallel, priors, sample
from gan_jax.data.synthetic import DISTRIBUTIONS, Distribution, standardised
from gan_jax.metrics.modes import mode_coverage
from gan_jax.metrics.sliced import sliced_wasserstein
from gan_jax.metrics.two_sample import energy_test
from gan_jax.models.mlp import mlp
from gan_jax.run import Look, RunFolder, cli
from gan_jax.run.folder import Record
from gan_jax.run.plots import plane
from gan_jax.types import Array

REACH = {
    "ring": 1.5,
    "grid": 5.0,
    "cascade": 1.6,
    "swiss_roll": 1.3,
    "two_moons": 2.4,
    "spiral": 1.3,
}
"""The pictures show x and y from minus this value to this value."""


@dataclasses.dataclass(frozen=True)
class Recipe(many.Rules):
    """Settings of the distribution, the networks and the training."""

    data: Literal["ring", "grid", "cascade", "swiss_roll", "two_moons", "spiral"] = "ring"
    """Distribution of the real samples."""
    latent: int = 2
    """Number of dimensions of z."""
    latent_scale: float = 4.0
    """Standard deviation of z. With a wider z, fewer samples lie between the modes."""
    signs: int = 0
    """Number of further dimensions of z, each of which is --latent-scale or its negative. A G with
    such dimensions needs no samples between the modes."""
    width: int = 64
    """Units in each hidden layer of both networks."""
    discriminator_width: int | None = None
    """Units in each hidden layer of D. None: `--width`."""
    fourier: int = 0
    """Number of waves of the Fourier features that D also receives. They let it see the width of
    narrow modes."""
    generator_depth: int = 4
    """Hidden layers of G."""
    discriminator_depth: int = 4
    """Hidden layers of D."""
    generator_slope: float = 0.0
    """Slope of G's leaky ReLUs below 0. With 0 they are ReLUs."""
    draws: int = 10
    """Number of draws of --num-samples samples. Each metric is the mean over these draws."""


@dataclasses.dataclass(frozen=True)
class Config(Recipe):
    """Settings of the experiment."""

    workdir: Path = Path("runs/mixture_2d")
    """Folder of the run."""
    frames: int = 40
    """Frames of the animation that show G in training. One more frame shows the untrained G."""


def check_recipe(recipe: Recipe) -> None:
    """Raises `UserError` for an invalid setting."""
    many.check(recipe)
    counts = ["latent", "width", "discriminator_width"]
    counts += ["generator_depth", "discriminator_depth", "draws"]
    cli.check_at_least(recipe, **dict.fromkeys(counts, 1), signs=0, fourier=0)
    cli.check_above_zero(recipe, "latent_scale")


def check(config: Config) -> None:
    """Raises `UserError` for an invalid setting."""
    check_recipe(config)
    cli.check_at_least(config, frames=2)
    many.check_multiple(config.num_steps, config.frames, "--frames")


def data(recipe: Recipe) -> tuple[Distribution, float]:
    """Returns the distribution scaled to a root mean square of 1, and its original scale."""
    return standardised(DISTRIBUTIONS[recipe.data]())


def build(recipe: Recipe, distribution: Distribution) -> many.Game:
    """Returns the GAN and the training for these settings."""
    slope, width = recipe.generator_slope, recipe.discriminator_width or recipe.width
    player = partial(mlp, (2,), bounded=False)
    depths = recipe.generator_depth, recipe.discriminator_depth
    prior = priors.normal(recipe.latent, recipe.latent_scale)
    if recipe.signs:
        prior = priors.joined(prior, priors.signs(recipe.signs, recipe.latent_scale))
    gan = GAN(
        player(width=recipe.width, depth=depths[0], generator_slope=slope).generator,
        player(width=width, depth=depths[1], fourier=recipe.fourier).discriminator,
        prior,
    )
    return many.play(recipe, gan, distribution, (2,))


def measure(
    recipe: Recipe, distribution: Distribution, draw: Callable[..., Array], key: Array
) -> dict[str, Array]:
    """Returns the metrics of a sampler, each of shape [].

    `energy_distance` and its `p_value` compare one draw with the same number of real samples. If
    the distribution has modes, the fields of `mode_coverage` are included, as means over all draws.
    `narrowest` and `widest` are those of all draws together.

    Args:
      recipe: gives the number of draws and the number of samples in each.
      distribution: the distribution of the real samples.
      draw: the sampler, `(key, num) -> x [num, 2]`.
      key: the key for the draws and for the energy test.
    """
    key_real, key_test, key_draws = jax.random.split(key, 3)
    keys = jax.random.split(key_draws, recipe.draws)
    x = draw(keys[0], recipe.num_samples)
    tested = energy_test(x, distribution.sample(key_real, len(x)), key_test)
    metrics = {"energy_distance": tested.distance, "p_value": tested.p_value}
    if len(distribution.modes):
        modes, scale = jnp.asarray(distribution.modes), jnp.asarray(distribution.scale)
        counted = jax.lax.map(
            lambda key: mode_coverage(draw(key, recipe.num_samples), modes, scale), keys
        )
        metrics |= {name: jnp.mean(values) for name, values in counted._asdict().items()}
        # A single draw has too few samples of a mode to measure its width.
        pooled = mode_coverage(draw(keys[0], recipe.draws * recipe.num_samples), modes, scale)
        metrics |= {"narrowest": pooled.narrowest, "widest": pooled.widest}
    return metrics


def title(metrics: many.PerSeed, number: int) -> str:
    """Returns a line of text with the main metrics of one seed."""
    if "captured" not in metrics:
        return f"energy p {metrics['p_value'][number]:.2f}"
    captured, quality = metrics["captured"][number], 100 * metrics["high_quality"][number]
    return f"{captured:.3g} modes, HQ {quality:.1f} %"


def metrics_of(
    recipe: Recipe, game: many.Game, distribution: Distribution, states: TrainState
) -> dict[str, many.PerSeed]:
    """Returns the metrics of the GANs and of a perfect sampler, as lists over the seeds."""
    keys = jax.vmap(jax.random.key)(jnp.arange(recipe.seeds))

    def of_both(each: tuple[TrainState, Array]) -> dict[str, dict[str, Array]]:
        state, key = each
        key_gan, key_perfect = jax.random.split(key)
        return {
            "gan": measure(recipe, distribution, partial(sample, game.gan, state), key_gan),
            "perfect_sampler": measure(recipe, distribution, distribution.sample, key_perfect),
        }

    # One seed after the other: the energy test keeps all distances between samples in memory.
    found = jax.jit(lambda *each: jax.lax.map(of_both, each))(states, keys)
    metrics = jax.tree.map(lambda values: np.asarray(values, float).tolist(), found)
    for name, distances in transported(recipe, game, distribution, states).items():
        metrics[name]["sliced_wasserstein"] = distances
    return metrics


def transported(
    recipe: Recipe, game: many.Game, distribution: Distribution, states: TrainState
) -> dict[str, list[float]]:
    """Returns, for each seed, the sliced Wasserstein distance to real samples, in standard
    deviations of the data. It is the mean over all draws, for the GANs and for a perfect sampler.
    """
    draws, num = recipe.draws, recipe.num_samples

    def draw_all(state: TrainState) -> Array:
        return sample(game.gan, state, jax.random.key(2), draws * num).reshape(draws, num, 2)

    def perfect(key: Array) -> Array:
        return distribution.sample(key, draws * num).reshape(draws, num, 2)

    key, *keys = jax.random.split(jax.random.key(3), 1 + recipe.seeds)
    real = perfect(key)

    def mean(made: Array) -> float:
        each = zip(made, real, strict=True)
        return float(np.mean([sliced_wasserstein(x, y, 0, projections=64) for x, y in each]))

    return {
        "gan": [mean(made) for made in jax.jit(jax.vmap(draw_all))(states)],
        "perfect_sampler": [mean(perfect(key)) for key in keys],
    }


def main(config: Config) -> Record:
    """Trains, measures, draws the pictures and returns the summary."""
    check(config)
    parallel.use_every_core()
    return cli.record("mixture_2d", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    distribution, unit = data(config)
    game = build(config, distribution)
    reach = REACH[config.data]

    def see(states: TrainState) -> dict[str, Array]:
        """Returns the arguments of `plane.View`. D is left out if it judges packs."""
        state = jax.tree.map(lambda leaf: leaf[0], states)
        seen = {"made": unit * sample(game.gan, state, jax.random.key(0), 1000)}
        if config.pack == 1:
            seen["judged"] = many.judged(game.gan, state, reach, 80, unit=unit)
        return seen

    every = config.num_steps // config.frames
    states = many.train(config, game, folder, [Look(every, see, folder.keep)])
    metrics = metrics_of(config, game, distribution, states)
    print(many.table(metrics))
    real = unit * np.asarray(distribution.sample(jax.random.key(1), 1000))
    views = [
        plane.View(f"{config.data}, seed {config.seed}, after {step} updates of G", **seen)
        for step, seen in folder.kept()
    ]
    plane.training(views, real, folder.path / "training.gif", reach=reach)
    draw = jax.vmap(lambda state: sample(game.gan, state, jax.random.key(0), config.num_samples))
    shown = [
        plane.View(f"seed {config.seed + i}: {title(metrics['gan'], i)}", unit * np.asarray(x))
        for i, x in enumerate(jax.jit(draw)(states))
    ]
    plane.side_by_side(shown, real, folder.path / "seeds.png", reach=reach)
    return {
        "updates": many.updates(config),
        "num_modes": len(distribution.modes),
        "figures": metrics,
        "pictures": ["training.gif", "seeds.png"],
    }


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
