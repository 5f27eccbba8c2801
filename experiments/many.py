"""Settings, training and tables for experiments that train many GANs in one program."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

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
"""For each metric, by its name, a list with one number for each seed."""


@dataclasses.dataclass(frozen=True)
class Rules:
    """Settings of the losses, the optimizers and the length of training."""

    loss: losses.LossName = "non_saturating"
    """Loss of D and G."""
    penalty: tuple[str, ...] = ("r1",)
    """Names of D's penalties, from gan_jax.penalties.PENALTIES. Give `--penalty` without a name for
    no penalty."""
    penalty_weight: float = 0.1
    """Initial weight of each penalty (gamma / 2 for R1 and R2). The weight is for samples
    divided by their root mean square."""
    final_penalty_share: float = 1e-4
    """Final weight of each penalty, as a fraction of the initial one. The weight decays
    geometrically. G finds the modes while the penalty is strong. D learns the width of the modes
    when the penalty is weak."""
    noise: float = 0.5
    """Largest standard deviation of the noise added to D's inputs, which were divided by their root
    mean square. With noise, D can compare how often distant modes are drawn. 0 means no noise."""
    noise_share: float = 0.25
    """Fraction of D's inputs, real and fake, to which noise is added."""
    pack: int = 1
    """Number of samples in a pack. D judges a pack as one input, as in PacGAN."""
    unroll: int = 0
    """Number of D's steps that G looks ahead, as in unrolled GANs."""
    n_critic: int = 1
    """Updates of D for each update of G."""
    num_steps: int = 8000
    """Updates of G."""
    batch_size: int = 256
    """Real samples (or packs) in an update of D. D also gets the same number of fakes."""
    generator_lr: float = 2e-3
    """Initial learning rate of G."""
    discriminator_lr: float = 2e-3
    """Initial learning rate of D."""
    final_lr_share: float = 0.1
    """Final learning rate of D and G, as a fraction of the initial rate."""
    generator_final_lr_share: float | None = None
    """Final learning rate of G, if it differs from that of D. If it is far smaller, D settles for
    each G, and both settle. None: `--final-lr-share`."""
    lr_decay: Literal["cosine", "exponential"] = "cosine"
    """Curve of the learning rates: half a cosine, or constant for three tenths of the training
    and then a decay by equal factors."""
    b1: float = 0.0
    """Adam's decay rate for the mean of the gradients."""
    b2: float = 0.99
    """Adam's decay rate for the mean of the squared gradients."""
    ema_decay: float = 0.9998
    """Largest decay rate of the moving average of G's weights. Samples are drawn with this average.
    Early in training the average covers about the last ninth of the updates so far."""
    seeds: int = 10
    """Number of GANs. All are trained in one program, spread over the devices."""
    seed: int = 0
    """Seed of the first GAN. The other GANs use the seeds that follow."""
    num_samples: int = 2500
    """Number of samples in which the modes are counted."""


def check(rules: Rules) -> None:
    """Raises `UserError` for an invalid setting."""
    counts = ("pack", "n_critic", "num_steps", "batch_size", "seeds")
    cli.check_at_least(rules, **dict.fromkeys(counts, 1), unroll=0, noise=0, num_samples=2)
    cli.check_above_zero(rules, "generator_lr", "discriminator_lr")
    cli.check_seed(rules)
    cli.check_names(rules, "penalty", PENALTIES)
    if len(set(rules.penalty)) < len(rules.penalty):
        raise UserError(f"--penalty must name each once, got {' '.join(rules.penalty)}")
    cli.check_above_zero(rules, "penalty_weight", "final_penalty_share")
    cli.check_below_one(rules, "b1", "b2", "ema_decay")
    rates = ("final_lr_share", "generator_final_lr_share")
    if rules.lr_decay == "exponential":
        cli.check_above_zero(rules, *rates)
    cli.check_share(rules, "noise_share", "final_penalty_share", *rates)


def check_multiple(num_steps: int, divisor: int, name: str) -> None:
    """Raises `UserError` unless `num_steps` is a multiple of the setting `name`."""
    if num_steps % divisor:
        raise UserError(f"--num-steps must be a multiple of {name} ({divisor}), got {num_steps}")


class Game(NamedTuple):
    """A GAN and its training.

    Attributes:
      gan: the GAN with a D for single samples. Training may use another D, for packs of samples.
      state: returns the initial state for a key.
      step: pure train step `state, _ -> state, metrics`. It draws its own real samples.
    """

    gan: GAN
    state: Callable[[Array], TrainState]
    step: Callable[..., Any]


def play(rules: Rules, gan: GAN, real: Sampler, shape: tuple[int, ...]) -> Game:
    """Returns the GAN with these networks, and its training on real samples of the given shape."""
    played, pack = (packed(gan, rules.pack), (rules.pack,)) if rules.pack > 1 else (gan, ())
    loss = losses.LOSSES[rules.loss]

    def tx(rate: float, final: float, updates: int = 1) -> optax.GradientTransformation:
        decay = learning_rate(rules, final)
        return adam(lambda step: rate * decay(step / updates), b1=rules.b1, b2=rules.b2)

    generator_tx = tx(rules.generator_lr, generator_final(rules))
    noise = mixed_scales(rules.noise, share=rules.noise_share)
    shared: dict[str, Any] = {
        "augmentation": instance_noise(noise) if rules.noise else None,
        "ema_decay": rising_decay(rules.ema_decay),
    }
    algorithm = adversarial(
        played,
        loss,
        generator_tx=generator_tx,
        discriminator_tx=tx(rules.discriminator_lr, rules.final_lr_share, rules.n_critic),
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
    """Returns the number of updates computed for each player. D's unrolled steps count too."""
    per_update_of_g = {"generator": 1, "discriminator": rules.n_critic + rules.unroll}
    return {player: rules.num_steps * num for player, num in per_update_of_g.items()}


def generator_final(rules: Rules) -> float:
    """Returns the final learning rate of G, as a share of the initial rate."""
    share = rules.generator_final_lr_share
    return rules.final_lr_share if share is None else share


def learning_rate(rules: Rules, final: float) -> optax.Schedule:
    """Returns the schedule of a learning rate, which counts updates of G and falls from 1 to
    `final`."""
    if rules.lr_decay == "cosine":
        return optax.cosine_decay_schedule(1.0, rules.num_steps, alpha=final)
    constant = rules.num_steps * 3 // 10
    return optax.exponential_decay(
        1.0, rules.num_steps - constant, final, transition_begin=constant, end_value=final
    )


def penalty_weight(rules: Rules, step: Array) -> Array:
    """Returns the weight of each penalty after `step` updates of D. The decay is geometric."""
    done = jnp.minimum(step / (rules.num_steps * rules.n_critic), 1.0)
    return rules.penalty_weight * rules.final_penalty_share**done


def train(rules: Rules, game: Game, folder: RunFolder, looks: Sequence[Look] = ()) -> TrainState:
    """Trains all seeds in one program, in a folder, with `gan_jax.run.train`.

    Returns:
      The states, on one device. The first axis of every leaf is that of the seeds.
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
    """Returns D(x / unit) on a square lattice [num, num] from -reach to reach. Rows are along y."""
    axis = jnp.linspace(-reach, reach, num)
    x = jnp.stack(jnp.meshgrid(axis, axis), axis=2).reshape(-1, 2) / unit
    player = state.discriminator
    logits, _ = gan.discriminator.apply(player.params, player.model_state, x, train=False)
    return jax.nn.sigmoid(logits).reshape(num, num)


def table(metrics: dict[str, PerSeed]) -> str:
    """Returns a table as text: mean, lowest and highest over the seeds, in one column per key."""
    titles = [f"{who.replace('_', ' ')}: mean (lowest to highest)" for who in metrics]
    rows = {"": titles} | {
        name: [spread(found[name], ".4g") for found in metrics.values()]
        for name in next(iter(metrics.values()))
    }
    return "\n".join(
        f"{name:18}" + "".join(f"{cell:>46}" for cell in cells) for name, cells in rows.items()
    )
