"""What experiments with many GANs at once share: the rules of a game, playing it, its budget."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax import (
    GAN,
    Batch,
    TrainState,
    init,
    losses,
    make_discriminator_step,
    make_generator_step,
    make_train_step,
    rising_decay,
    run,
)
from gan_jax.algorithms import make_unrolled_generator_step
from gan_jax.augment import instance_noise, mixed_scales
from gan_jax.data.synthetic import Sampler, feed
from gan_jax.errors import UserError
from gan_jax.networks.packing import packed
from gan_jax.optimizers import adam
from gan_jax.penalties import PENALTIES
from gan_jax.run import Look, RunFolder, cli, plots
from gan_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Rules:
    """How a game is played, for how long, how often."""

    loss: losses.LossName = "non_saturating"
    """What both players minimise."""
    penalty: tuple[str, ...] = ("r1",)
    """Penalties on D, names of gan_jax.penalties.PENALTIES; none with `--penalty` alone."""
    penalty_weight: float = 0.1
    """Weight of each at the start: gamma / 2 for R1 and R2, of samples in units of their spread."""
    final_penalty_share: float = 1e-4
    """Of that weight, what it falls to, geometrically; 1: it stays. A strong penalty finds the
    modes; only a weak one lets D tell how wide they are."""
    noise: float = 0.5
    """Added to some of what D sees in training, of all scales up to this, of samples in units of
    their spread; 0: none. By it modes drawn too often feel those that are drawn too seldom."""
    noise_share: float = 0.25
    """Of what D judges, real and fake, samples or packs of them: the share that is given noise."""
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
    generator_lr: float = 2e-3
    """Learning rate of G at the start; it falls along a half cosine."""
    discriminator_lr: float = 2e-3
    """Learning rate of D, likewise."""
    final_lr_share: float = 0.1
    """Of either rate, what it falls to. Players that come to a halt keep what error they have
    then; of players that still move the average of G's weights is the better one."""
    b1: float = 0.0
    """Decay of Adam's mean gradient."""
    b2: float = 0.99
    """Decay of Adam's mean square."""
    ema_decay: float = 0.9998
    """Of the average of G's weights that is sampled, at most. Until then it is over a ninth of all
    updates so far: modes wander about their places, the average much less."""
    seeds: int = 10
    """GANs trained at once, in one program, spread over the devices."""
    seed: int = 0
    """Of the first; the others follow."""
    num_samples: int = 2500
    """Samples that the modes are counted in."""


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


def check_chunks(rules: Rules, chunks: int, of: str) -> None:
    """Raises `UserError` unless training comes in so many equal chunks."""
    if rules.num_steps % chunks:
        raise UserError(f"--num-steps must be a multiple of {of} ({chunks}), got {rules.num_steps}")


class Game(NamedTuple):
    """What is trained.

    Attributes:
      gan: judging one sample; its G is the one that is trained.
      state: key -> the first state.
      step: a pure train step that draws its own real samples, `state, _ -> state, metrics`.
    """

    gan: GAN
    state: Callable[[Array], TrainState]
    step: Callable[..., Any]


def play(rules: Rules, gan: GAN, real: Sampler, shape: tuple[int, ...]) -> Game:
    """The game of these networks on real samples of a shape."""
    noise = mixed_scales(rules.noise, share=rules.noise_share)
    augmentation = instance_noise(noise) if rules.noise else None
    played = packed(gan, rules.pack) if rules.pack > 1 else gan
    loss = losses.LOSSES[rules.loss]
    decay = optax.cosine_decay_schedule(1.0, rules.num_steps, alpha=rules.final_lr_share)

    def tx(rate: float, updates: int) -> optax.GradientTransformation:
        return adam(lambda step: rate * decay(step / updates), b1=rules.b1, b2=rules.b2)

    generator_tx, discriminator_tx = (
        tx(rules.generator_lr, 1),
        tx(rules.discriminator_lr, rules.n_critic),
    )
    penalties = [(PENALTIES[name], partial(penalty_weight, rules)) for name in rules.penalty]
    discriminator_step = make_discriminator_step(
        played, loss, discriminator_tx, penalties=penalties, augmentation=augmentation
    )
    ema_decay = rising_decay(rules.ema_decay)
    generator_step = make_generator_step(
        played, loss, generator_tx, augmentation=augmentation, ema_decay=ema_decay
    )
    if rules.unroll:
        generator_step = make_unrolled_generator_step(
            played,
            loss,
            generator_tx,
            discriminator_step,
            unroll=rules.unroll,
            augmentation=augmentation,
            ema_decay=ema_decay,
        )
    pack = (rules.pack,) if rules.pack > 1 else ()
    example = Batch(jnp.zeros((1, *pack, *shape)))

    def begin(key: Array) -> TrainState:
        return init(
            played,
            generator_tx,
            discriminator_tx,
            key,
            example,
            penalties=penalties,
            augmentation=augmentation,
        )

    return Game(
        gan,
        begin,
        feed(
            make_train_step(discriminator_step, generator_step, n_critic=rules.n_critic),
            real,
            (rules.n_critic, rules.batch_size, *pack),
        ),
    )


def updates(rules: Rules) -> dict[str, int]:
    """How many steps of each player are computed; D's unrolled ones count."""
    of_generator = rules.num_steps
    return {
        "generator": of_generator,
        "discriminator": of_generator * (rules.n_critic + rules.unroll),
    }


def penalty_weight(rules: Rules, step: Array) -> Array:
    """The weight of each penalty after so many updates of D []: it falls geometrically."""
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


def table(figures: dict[str, dict[str, list[float]]]) -> str:
    """The figures as text, a column for each key: mean, lowest and highest of the seeds."""
    titles = [f"{who.replace('_', ' ')}: mean (lowest to highest)" for who in figures]
    lines = [f"{'':18}" + "".join(f"{title:>46}" for title in titles)]
    for name in next(iter(figures.values())):
        cells = [
            f"{np.mean(found[name]):.4g} ({min(found[name]):.4g} to {max(found[name]):.4g})"
            for found in figures.values()
        ]
        lines.append(f"{name:18}" + "".join(f"{cell:>46}" for cell in cells))
    return "\n".join(lines)
