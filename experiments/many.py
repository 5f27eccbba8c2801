"""The rules, the training and the tables of experiments that train many GANs at once."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gan_jax import GAN, Batch, TrainState, adversarial, losses, make_algorithm, rising_decay, run
from gan_jax.algorithms import make_unrolled_generator_step
from gan_jax.augment import instance_noise, mixed_scales
from gan_jax.data.synthetic import Sampler, feed
from gan_jax.errors import UserError
from gan_jax.networks.packing import packed
from gan_jax.optimizers import adam
from gan_jax.penalties import PENALTIES
from gan_jax.run import Look, RunFolder, cli, plots
from gan_jax.run.tables import spread
from gan_jax.types import Array

PerSeed = dict[str, list[float]]
"""Metrics by name, each a list over the seeds."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """The losses, optimizers and budget of an experiment."""

    loss: losses.LossName = "non_saturating"
    """Loss of both players."""
    penalty: tuple[str, ...] = ("r1",)
    """Penalties on D, by their names in gan_jax.penalties.PENALTIES; `--penalty` alone: none."""
    penalty_weight: float = 0.1
    """Initial weight of each penalty (gamma / 2 for R1 and R2), for samples in units of their
    spread."""
    final_penalty_share: float = 1e-4
    """Final weight of each penalty, as a fraction of the initial one. The weight decays
    geometrically: a strong penalty finds the modes, a weak one lets D see their width."""
    noise: float = 0.5
    """Largest standard deviation of the noise added to D's inputs, in units of the samples' spread.
    The noise lets D compare how often distant modes are drawn. 0: no noise."""
    noise_share: float = 0.25
    """Fraction of D's inputs (samples or packs, real and fake) that noise is added to."""
    pack: int = 1
    """Number of samples that D judges together, as in PacGAN."""
    unroll: int = 0
    """Number of D's steps that G looks ahead, as in unrolled GANs."""
    n_critic: int = 1
    """Updates of D for each update of G."""
    num_steps: int = 8000
    """Updates of G."""
    batch_size: int = 256
    """Samples (or packs) of each kind, real and fake, in an update of D."""
    generator_lr: float = 2e-3
    """Initial learning rate of G; it decays along half a cosine."""
    discriminator_lr: float = 2e-3
    """Initial learning rate of D; it decays along half a cosine."""
    final_lr_share: float = 0.1
    """Final learning rate of each player, as a fraction of the initial one."""
    b1: float = 0.0
    """Decay of Adam's mean gradient."""
    b2: float = 0.99
    """Decay of Adam's mean squared gradient."""
    ema_decay: float = 0.9998
    """Largest decay of the average of G's weights, which samples are drawn with. Early in training
    the average covers about the last ninth of the updates so far."""
    seeds: int = 10
    """Number of GANs trained at once, in one program, spread over the devices."""
    seed: int = 0
    """Seed of the first GAN; the others use the seeds that follow."""
    num_samples: int = 2500
    """Number of samples in which the modes are counted."""


def check(rules: Rules) -> None:
    """Raises `UserError` for values that no run could use."""
    counts = ("pack", "n_critic", "num_steps", "batch_size", "seeds")
    cli.check_at_least(rules, **dict.fromkeys(counts, 1), unroll=0, noise=0, num_samples=2)
    cli.check_above_zero(rules, "generator_lr", "discriminator_lr")
    cli.check_seed(rules)
    for name in rules.penalty:
        if name not in PENALTIES:
            raise UserError(f"--penalty must be some of {', '.join(PENALTIES)}, got {name}")
    if len(set(rules.penalty)) < len(rules.penalty):
        raise UserError(f"--penalty must name each once, got {' '.join(rules.penalty)}")
    cli.check_above_zero(rules, "penalty_weight", "final_penalty_share")
    cli.check_below_one(rules, "b1", "b2", "ema_decay")
    for name in ("noise_share", "final_lr_share", "final_penalty_share"):
        if not 0 <= (share := getattr(rules, name)) <= 1:
            raise UserError(f"{cli.flag(name)} must be in [0, 1], got {share}")


def check_multiple(num_steps: int, divisor: int, name: str) -> None:
    """Raises `UserError` unless `num_steps` is a multiple of the setting `name`."""
    if num_steps % divisor:
        raise UserError(f"--num-steps must be a multiple of {name} ({divisor}), got {num_steps}")


class Game(NamedTuple):
    """A GAN and its training.

    Attributes:
      gan: the GAN of single samples; training may use packs of them.
      state: key -> the first state.
      step: a pure train step that draws its own real samples, `state, _ -> state, metrics`.
    """

    gan: GAN
    state: Callable[[Array], TrainState]
    step: Callable[..., Any]


def play(rules: Rules, gan: GAN, real: Sampler, shape: tuple[int, ...]) -> Game:
    """Returns the game of these networks on real samples of a shape."""
    played, pack = (packed(gan, rules.pack), (rules.pack,)) if rules.pack > 1 else (gan, ())
    loss = losses.LOSSES[rules.loss]
    decay = optax.cosine_decay_schedule(1.0, rules.num_steps, alpha=rules.final_lr_share)

    def tx(rate: float, updates: int) -> optax.GradientTransformation:
        return adam(lambda step: rate * decay(step / updates), b1=rules.b1, b2=rules.b2)

    generator_tx = tx(rules.generator_lr, 1)
    noise = mixed_scales(rules.noise, share=rules.noise_share)
    shared: dict[str, Any] = {
        "augmentation": instance_noise(noise) if rules.noise else None,
        "ema_decay": rising_decay(rules.ema_decay),
    }
    algorithm = adversarial(
        played,
        loss,
        generator_tx=generator_tx,
        discriminator_tx=tx(rules.discriminator_lr, rules.n_critic),
        penalties=[(PENALTIES[name], partial(penalty_weight, rules)) for name in rules.penalty],
        n_critic=rules.n_critic,
        **shared,
    )
    if rules.unroll:
        discriminator_step = algorithm.discriminator_step
        generator_step = make_unrolled_generator_step(
            played, loss, generator_tx, discriminator_step, unroll=rules.unroll, **shared
        )
        algorithm = make_algorithm(
            played, algorithm.init, discriminator_step, generator_step, n_critic=rules.n_critic
        )
    example = Batch(jnp.zeros((1, *pack, *shape)))
    step = feed(algorithm.step, real, (rules.n_critic, rules.batch_size, *pack))
    return Game(gan, lambda key: algorithm.init(key, example), step)


def updates(rules: Rules) -> dict[str, int]:
    """Returns the number of steps computed for each player, with D's unrolled steps."""
    per_update_of_g = {"generator": 1, "discriminator": rules.n_critic + rules.unroll}
    return {player: rules.num_steps * num for player, num in per_update_of_g.items()}


def penalty_weight(rules: Rules, step: Array) -> Array:
    """Returns the weight of each penalty after `step` updates of D; it decays geometrically."""
    done = jnp.minimum(step / (rules.num_steps * rules.n_critic), 1.0)
    return rules.penalty_weight * rules.final_penalty_share**done


def train(rules: Rules, game: Game, folder: RunFolder, looks: Sequence[Look] = ()) -> TrainState:
    """Trains all seeds in one program, in a folder, as `gan_jax.run.train` does.

    Returns:
      The states on one device, every leaf with an axis of seeds in front.
    """
    keys = jax.vmap(jax.random.key)(jnp.arange(rules.seed, rules.seed + rules.seeds))
    return run.train(
        game.step,
        jax.jit(jax.vmap(game.state))(keys),
        folder=folder,
        num_steps=rules.num_steps,
        layout="ensemble",
        looks=looks,
        words=plots.in_short,
    )


def judged(gan: GAN, state: TrainState, reach: float, num: int, *, unit: float = 1.0) -> Array:
    """Returns D(x / unit) at a square lattice [num, num] from -reach to reach, rows along y."""
    axis = jnp.linspace(-reach, reach, num)
    x = jnp.stack(jnp.meshgrid(axis, axis), axis=2).reshape(-1, 2) / unit
    player = state.discriminator
    logits, _ = gan.discriminator.apply(player.params, player.model_state, x, train=False)
    return jax.nn.sigmoid(logits).reshape(num, num)


def table(metrics: dict[str, PerSeed]) -> str:
    """Returns the metrics as text, a column for each key: mean, lowest and highest over seeds."""
    titles = [f"{who.replace('_', ' ')}: mean (lowest to highest)" for who in metrics]
    rows = {"": titles} | {
        name: [spread(found[name], ".4g") for found in metrics.values()]
        for name in next(iter(metrics.values()))
    }
    return "\n".join(
        f"{name:18}" + "".join(f"{cell:>46}" for cell in cells) for name, cells in rows.items()
    )
