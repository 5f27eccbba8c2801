"""What `mixture_2d` and `mixture_table` share: a game in the plane, many seeds at once, figures."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import cli
from gan_jax import (
    GAN,
    Batch,
    TrainState,
    init,
    instance_noise,
    losses,
    make_discriminator_step,
    make_generator_step,
    make_train_step,
    mixed_scales,
    parallel,
    priors,
    sample,
)
from gan_jax.data.synthetic import DISTRIBUTIONS, Distribution, feed, standardised
from gan_jax.errors import UserError
from gan_jax.games import make_unrolled_generator_step
from gan_jax.metrics.modes import mode_coverage
from gan_jax.metrics.two_sample import energy_test
from gan_jax.models.mlp import mlp
from gan_jax.optimizers import adam
from gan_jax.packing import packed
from gan_jax.penalties import PENALTIES
from gan_jax.players import rising_decay
from gan_jax.types import Array, Metrics


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is learned, by which game, for how long, how often."""

    data: Literal["ring", "grid", "cascade", "swiss_roll", "two_moons", "spiral"] = "ring"
    """The distribution of the real samples."""
    loss: losses.LossName = "non_saturating"
    """What both players minimise."""
    penalty: tuple[str, ...] = ("r1",)
    """Penalties on D, names of gan_jax.penalties.PENALTIES; none with `--penalty` alone."""
    penalty_weight: float = 0.1
    """Weight of each at the start: gamma / 2 for R1 and R2, in units of the data's spread."""
    final_penalty_weight: float = 1e-5
    """Weight of each at the end, reached geometrically. A strong penalty finds the modes; only a
    weak one lets D tell how wide they are."""
    noise: float = 0.5
    """Added to some of what D sees in training, of all scales up to this in units of the data's
    spread; 0: none. Through it modes drawn too often feel those that are drawn too seldom."""
    noise_share: float = 0.25
    """Of the samples, real and fake, that are given noise."""
    pack: int = 1
    """Samples that D judges together, as PacGAN does."""
    unroll: int = 0
    """D's steps that G looks ahead, as in unrolled GANs."""
    n_critic: int = 1
    """D's updates for one of G's."""
    num_steps: int = 8000
    """G's updates."""
    batch_size: int = 256
    """Samples that D judges in an update, packs counted once."""
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
    generator_lr: float = 2e-3
    """Learning rate of G at the start; it falls to 0 along a half cosine."""
    discriminator_lr: float = 2e-3
    """Learning rate of D, likewise."""
    b1: float = 0.0
    """Decay of Adam's mean gradient."""
    b2: float = 0.99
    """Decay of Adam's mean square."""
    ema_decay: float = 0.999
    """Of the average of G's weights that is sampled."""
    seeds: int = 10
    """GANs trained at once, in one program."""
    seed: int = 0
    """Of the first; the others follow."""
    num_samples: int = 2500
    """Samples that the modes are counted in."""


def check(recipe: Recipe) -> None:
    """Raises `UserError` for values that no run could use."""
    counts = ["pack", "n_critic", "num_steps", "batch_size", "latent", "width", "seeds"]
    counts += ["generator_depth", "discriminator_depth"]
    cli.check_at_least(recipe, **dict.fromkeys(counts, 1), unroll=0, noise=0, num_samples=2)
    cli.check_above_zero(recipe, "generator_lr", "discriminator_lr", "latent_scale")
    cli.check_seed(recipe)
    for name in recipe.penalty:
        if name not in PENALTIES:
            raise UserError(f"--penalty must be some of {', '.join(PENALTIES)}, got {name}")
    if recipe.penalty:
        cli.check_above_zero(recipe, "penalty_weight", "final_penalty_weight")
    cli.check_below_one(recipe, "b1", "b2", "ema_decay")
    if not 0 <= recipe.noise_share <= 1:
        raise UserError(f"--noise-share must be in [0, 1], got {recipe.noise_share}")


class Game(NamedTuple):
    """What is trained.

    Attributes:
      distribution: of the real samples, in units of their root mean square.
      unit: that is, in the data's own.
      gan: judging one sample; its G is the one that is trained.
      state: key -> the first state.
      step: a pure train step that draws its own real samples, `state, _ -> state, metrics`.
    """

    distribution: Distribution
    unit: float
    gan: GAN
    state: Callable[[Array], TrainState]
    step: Callable[..., Any]


def build(recipe: Recipe) -> Game:
    """The game that the settings describe."""
    distribution, unit = standardised(DISTRIBUTIONS[recipe.data]())
    gan = _networks(recipe)
    if recipe.noise:
        gan = instance_noise(gan, mixed_scales(recipe.noise, share=recipe.noise_share))
    played = packed(gan, recipe.pack) if recipe.pack > 1 else gan
    loss, num = losses.named(recipe.loss), recipe.num_steps
    decay = optax.cosine_decay_schedule(1.0, num)

    def tx(rate: float, updates: int) -> optax.GradientTransformation:
        return adam(lambda step: rate * decay(step / updates), b1=recipe.b1, b2=recipe.b2)

    generator_tx, discriminator_tx = (
        tx(recipe.generator_lr, 1),
        tx(recipe.discriminator_lr, recipe.n_critic),
    )
    penalties = [(PENALTIES[name], partial(penalty_weight, recipe)) for name in recipe.penalty]
    discriminator_step = make_discriminator_step(
        played, loss, discriminator_tx, penalties=penalties
    )

    ema_decay = rising_decay(recipe.ema_decay)
    generator_step = make_generator_step(played, loss, generator_tx, ema_decay=ema_decay)
    if recipe.unroll:
        generator_step = make_unrolled_generator_step(
            played,
            loss,
            generator_tx,
            discriminator_step,
            unroll=recipe.unroll,
            ema_decay=ema_decay,
        )
    pack = (recipe.pack,) if recipe.pack > 1 else ()
    example = Batch(jnp.zeros((1, *pack, 2)))
    return Game(
        distribution,
        unit,
        gan,
        lambda key: init(played, generator_tx, discriminator_tx, key, example, penalties=penalties),
        feed(
            make_train_step(discriminator_step, generator_step, n_critic=recipe.n_critic),
            distribution,
            (recipe.n_critic, recipe.batch_size, *pack),
        ),
    )


def _networks(recipe: Recipe) -> GAN:
    def of_depth(depth: int) -> GAN:
        return mlp(
            (2,),
            width=recipe.width,
            depth=depth,
            bounded=False,
            generator_slope=recipe.generator_slope,
        )

    return GAN(
        of_depth(recipe.generator_depth).generator,
        of_depth(recipe.discriminator_depth).discriminator,
        priors.normal(recipe.latent, recipe.latent_scale),
    )


def updates(recipe: Recipe) -> dict[str, int]:
    """How many steps of each player are computed; D's unrolled ones count."""
    of_generator = recipe.num_steps
    return {
        "generator": of_generator,
        "discriminator": of_generator * (recipe.n_critic + recipe.unroll),
    }


def penalty_weight(recipe: Recipe, step: Array) -> Array:
    """The weight of each penalty after so many updates of D []: it falls geometrically."""
    done = jnp.minimum(step / (recipe.num_steps * recipe.n_critic), 1.0)
    fall = math.log(recipe.final_penalty_weight / recipe.penalty_weight)
    return recipe.penalty_weight * jnp.exp(fall * done)


def train(
    recipe: Recipe, game: Game, watch: Callable[[int, TrainState], None], *, chunks: int
) -> TrainState:
    """Trains all seeds in one program, spread over as many devices as divide them.

    Args:
      recipe: of the game.
      game: as built.
      watch: given the number of G's updates so far and the states, at first and after each chunk.
      chunks: equal shares of training.

    Returns:
      The states, every leaf with an axis of seeds in front.

    Raises:
      UserError: training left the finite numbers.
    """
    devices = jax.devices()[: math.gcd(recipe.seeds, len(jax.devices()))]
    length = recipe.num_steps // chunks

    def chunk(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(game.step, state, length=length)
        return state, jax.tree.map(lambda values: values[-1], metrics)

    advance = parallel.ensemble_step(chunk, batch_axis=None, devices=devices)
    keys = jax.vmap(jax.random.key)(jnp.arange(recipe.seed, recipe.seed + recipe.seeds))
    states = jax.jit(jax.vmap(game.state))(keys)
    watch(0, states)
    for done in cli.track(range(length, recipe.num_steps + 1, length), "training"):
        states, metrics = advance(states, None)
        if not all(np.isfinite(values).all() for values in metrics.values()):
            raise UserError(
                f"training left the finite numbers before step {done}: lower the learning rates, "
                "or use another --loss or --penalty"
            )
        watch(done, states)
    return states


def measure(distribution: Distribution, x: Array, key: Array) -> dict[str, Array]:
    """The figures of samples x [N, 2], each [].

    Keys: `captured`, `high_quality` and `reverse_kl` of `mode_coverage`, if there are modes;
    `energy_distance` and its `p_value`, against as many fresh draws.
    """
    key_real, key_test = jax.random.split(key)
    tested = energy_test(x, distribution.sample(key_real, len(x)), key_test)
    figures = {"energy_distance": tested.distance, "p_value": tested.p_value}
    if len(distribution.modes):
        modes = mode_coverage(
            x, *(jnp.asarray(a, x.dtype) for a in (distribution.modes, distribution.scale))
        )
        figures |= modes._asdict()
    return figures


def figures_of(recipe: Recipe, game: Game, states: TrainState) -> dict[str, dict[str, list[float]]]:
    """The figures seed by seed, of the GANs and of a sampler that is perfect."""
    keys = jax.vmap(jax.random.key)(jnp.arange(recipe.seeds))

    def of_both(each: tuple[TrainState, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        state, key = each
        key_gan, key_perfect, key_measure = jax.random.split(key, 3)
        made = sample(game.gan, state, key_gan, recipe.num_samples)
        perfect = game.distribution.sample(key_perfect, recipe.num_samples)
        return (
            measure(game.distribution, made, key_measure),
            measure(game.distribution, perfect, key_measure),
        )

    # One after the other: the test holds all distances between the samples.
    found = jax.jit(lambda *each: jax.lax.map(of_both, each))(states, keys)
    return {
        who: {name: np.asarray(values, float).tolist() for name, values in figures.items()}
        for who, figures in zip(("gan", "perfect_sampler"), found, strict=True)
    }
