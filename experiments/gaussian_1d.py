"""Goodfellow et al. 2014, figure 1, made exact: a GAN learns a Gaussian on the line.

The generator's density p_g, the best discriminator D* and JSD(p, p_g) are computed, not estimated,
so that training is seen against the theory: proposition 1 (D follows D*), theorem 1 (V ends at
-log 4) and proposition 2 (p_g becomes p). One column of numbers for each --n-critic: 1 is plain
Algorithm 1, many keeps D near D* as proposition 2 asks. Writes to --workdir: demonstration.png,
curves.png, samples/ (a frame for each moment drawn), n_critic_*.gif and .png, and summary.json;
trainings/ has the checkpoints. The same command resumes a run that was stopped.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax import (
    GAN,
    Batch,
    TrainState,
    from_linen,
    init,
    make_discriminator_step,
    make_generator_step,
    make_train_step,
    run,
    theory,
)
from gan_jax.data import synthetic
from gan_jax.errors import UserError
from gan_jax.losses import minimax
from gan_jax.parallel import Step
from gan_jax.run import Look, RunFolder, cli, plots
from gan_jax.theory.quadrature import expectation, integral, interval
from gan_jax.types import Array, Metrics, Network, PyTree

DATA = synthetic.gaussian(1.0, 0.5)
PRIOR = synthetic.gaussian()
"""Not the paper's uniform z: G(z) is then bounded, and with a smooth small G p_g stays short of
p's tails, where every unit of missing mass costs log(2) / 2 of JSD."""

NODES, WEIGHTS = interval(-5.0, 7.0, 601)
"""For the integrals over x; 12 standard deviations of the data to either side of its mean."""
LATENTS, LATENT_WEIGHTS = interval(-8.0, 8.0, 161)
"""For the integrals over z."""
SEARCHED = interval(-8.05, 8.05, 162)[0][:, None]
"""[M, 1] between which G is searched for the z of an x; `LATENTS` lie inside."""
LOG_2 = plots.LOG_4 / 2
ARROWS = jnp.array([[NormalDist().inv_cdf((i + 0.5) / 25)] for i in range(25)])
"""[25, 1] latents, each for a 25th of the prior's mass."""
LIMITS = (-2.5, 3.5)
"""Of the pictures, in x and in z."""
PANELS = ("(a) untrained", "(b) D trained, G not yet", "(c) during", "(d) at the end")
FIGURES = ("jsd", "value", "off_half", "p_g_mass")
"""What `examine` computes of each seed."""
PROTOCOL = (
    "After training, over seeds 0, 1, ...: each, mean, std (population), max; in nats, float32. By "
    f"the trapezoidal rule over x, {NODES.size} nodes on [{NODES[0]}, {NODES[-1]}], and over z, "
    f"{LATENTS.size} nodes on [-8, 8]; p_g exact. off_half: max |D - 1/2| where (p + p_g) / 2 is "
    "over 1% of p's peak. p_g_mass: the integral of p_g over x, a check: 1 where G does not fold."
)


@dataclasses.dataclass(frozen=True)
class Config:
    """How to train, and how often."""

    workdir: Path = Path("runs/gaussian_1d")
    """The run's folder. A run that is there already is resumed, or left alone if complete."""
    n_critic: tuple[int, ...] = (1, 10)
    """Updates of D for each one of G (k of Algorithm 1); one training for each number."""
    num_updates: int = 10_000
    """Updates of both players together in each training: G makes one in n_critic + 1 of them."""
    warmup: int = 200
    """Updates of D before the first of G: panel (b) of the figure."""
    seeds: int = 10
    """Trainings, of seeds 0, 1, ..., all at once. Seed 0 is drawn."""
    batch_size: int = 512
    """Real samples in a minibatch, and as many fake ones."""
    width: int = 16
    """Units in each of the two hidden layers of either network."""
    discriminator_lr: float = 1e-2
    """Adam's learning rate for D at the start; it falls to zero along half a cosine."""
    generator_lr: tuple[float, ...] = (1e-4, 2e-3)
    """The same for G, one for each --n-critic: the better D is, the longer a step G may take."""
    frames: int = 32
    """Moments at which the exact figures are taken and a picture is drawn."""


def build(width: int) -> GAN:
    """z ~ N(0, 1), x = G(z): perceptrons of two layers, smooth as p_g needs the slope of G."""

    def perceptron(*last: Callable[[Array], Array]) -> Network:
        hidden: list[Any] = [nn.Dense(width), nn.softplus, nn.Dense(width), nn.softplus]
        return from_linen(nn.Sequential([*hidden, nn.Dense(1), *last]))

    return GAN(perceptron(), perceptron(lambda y: y[:, 0]), PRIOR.sample)


def check(config: Config) -> None:
    """Raises `UserError` for values that no run could use."""
    names = ("num_updates", "warmup", "seeds", "batch_size", "width", "frames")
    cli.check_at_least(config, **dict.fromkeys(names, 1))
    cli.check_above_zero(config, "discriminator_lr")
    ks, rates = config.n_critic, config.generator_lr
    if not ks or min(ks) < 1 or len(set(ks)) < len(ks):
        raise UserError(f"--n-critic must be different numbers of at least 1, got {ks}")
    if len(rates) != len(ks) or not all(0 < rate < math.inf for rate in rates):
        raise UserError(f"--generator-lr must be above 0 for each of --n-critic {ks}, got {rates}")
    if config.num_updates < (needed := config.frames * (max(ks) + 1)):
        raise UserError(
            f"--num-updates must be at least frames * (n_critic + 1) = {needed}, so that G moves "
            f"between two frames, got {config.num_updates}: raise it, or lower --frames"
        )


def generate(gan: GAN, params: PyTree, z: Array) -> Array:
    """G(z) by G's parameters: [N, 1] -> [N, 1]."""
    return gan.generator.apply(params, {}, z, train=False)[0]


def log_p_g(gan: GAN, params: PyTree, x: Array) -> Array:
    """The exact log density of G's samples: x [N] -> [N], NaN where over four z lead to one x."""

    def of_one(z: Array) -> Array:
        return generate(gan, params, z[None])[0]

    return theory.branched_log_prob(of_one, x[:, None], SEARCHED, PRIOR.log_prob, num_branches=4)


def examine(gan: GAN, state: TrainState) -> tuple[Metrics, Metrics]:
    """What theory says of one state, by quadrature: figures [], functions of x [N].

    Means over G's samples are taken over z, E_q[f(x)] = E_z[f(G(z))]: p_g, infinite where G turns
    back, then enters only through D*. `off_half` is max |D - 1/2| over the nodes where
    (p + p_g) / 2 is over 1% of p's peak, `p_g_mass` the integral of p_g over x.
    """
    params, player, num = state.generator.params, state.discriminator, NODES.size
    z = LATENTS[:, None]
    x = jnp.concatenate([NODES[:, None], generate(gan, params, z)])
    log_p, log_q = DATA.log_prob(x), log_p_g(gan, params, x[:, 0])
    # Where G turns back within rounding of a fake, the search may miss the fake's own z.
    own = theory.pushforward_log_prob(
        lambda point: generate(gan, params, point[None])[0], z, PRIOR.log_prob
    )
    log_q = log_q.at[num:].max(own)
    logit, _ = gan.discriminator.apply(player.params, {}, x, train=False)
    best = theory.optimal_logit(log_p, log_q)

    def value(logit: Array) -> Array:
        real = expectation(log_p[:num], jax.nn.log_sigmoid(logit[:num]) + LOG_2, WEIGHTS)
        of_fakes = jax.nn.log_sigmoid(-logit[num:]) + LOG_2
        return real + expectation(PRIOR.log_prob(z), of_fakes, LATENT_WEIGHTS)

    p, p_g, d = jnp.exp(log_p[:num]), jnp.exp(log_q[:num]), jax.nn.sigmoid(logit[:num])
    figures = {
        "jsd": value(best) / 2,
        "value": value(logit) - 2 * LOG_2,
        "off_half": jnp.max(jnp.where((p + p_g) / 2 > 0.01 * p.max(), jnp.abs(d - 0.5), 0.0)),
        "p_g_mass": integral(p_g, WEIGHTS),
    }
    drawn = {"x": NODES, "p_data": p, "p_g": p_g, "discriminator": d}
    arrows = {"z": ARROWS[:, 0], "made": generate(gan, params, ARROWS)[:, 0]}
    return figures, {**drawn, "optimal": jax.nn.sigmoid(best[:num]), **arrows}


def play(config: Config, gan: GAN, n_critic: int, rounds: int) -> tuple[TrainState, Step, Step]:
    """The first states [seeds], the warm-up's step of D alone, and the train step.

    Both steps draw their own real samples; `rounds` is how many train steps there will be.
    """
    initial_lr = config.generator_lr[config.n_critic.index(n_critic)]
    generator_lr = optax.cosine_decay_schedule(initial_lr, rounds)
    generator_tx = optax.adam(generator_lr, b1=0.0, b2=0.99)
    warmup_lr = optax.constant_schedule(config.discriminator_lr)
    falling_lr = optax.cosine_decay_schedule(config.discriminator_lr, rounds * n_critic)
    discriminator_lr = optax.join_schedules([warmup_lr, falling_lr], [config.warmup])
    discriminator_tx = optax.adam(discriminator_lr, b1=0.0, b2=0.99)

    discriminator_step = make_discriminator_step(gan, minimax, discriminator_tx)
    generator_step = make_generator_step(gan, minimax, generator_tx)
    train_step = make_train_step(discriminator_step, generator_step, n_critic=n_critic)

    def start(seed: Array) -> TrainState:
        batch = Batch(jnp.zeros((2, 1)))
        return init(gan, generator_tx, discriminator_tx, jax.random.key(seed), batch)

    return (
        jax.jit(jax.vmap(start))(jnp.arange(config.seeds)),
        synthetic.feed(discriminator_step, DATA, (config.batch_size,)),
        synthetic.feed(train_step, DATA, (n_critic, config.batch_size)),
    )


def train(
    config: Config, gan: GAN, n_critic: int, folder: RunFolder
) -> list[tuple[int, dict[str, np.ndarray]]]:
    """Trains all seeds at once: G's updates so far, and what `examine` says, at each moment.

    The moments are the start, the end of the warm-up, and the end of each of the `frames` chunks.
    The figures are those of all seeds, [seeds]; the functions are those of seed 0.
    """
    chunk = config.num_updates // (n_critic + 1) // config.frames
    rounds, moments = chunk * config.frames, []
    states, warmup_step, train_step = play(config, gan, n_critic, rounds)

    def see(states: TrainState) -> Metrics:
        figures, drawn = jax.lax.map(partial(examine, gan), states)
        return figures | {name: values[0] for name, values in drawn.items()}

    for name, step, num_steps, every in (
        ("warmup", warmup_step, config.warmup, config.warmup),
        ("training", train_step, rounds, chunk),
    ):
        part = folder.part(f"trainings/n_critic_{n_critic}_{name}")
        states = run.train(
            step,
            states,
            folder=part,
            num_steps=num_steps,
            layout="ensemble",
            looks=[Look(every, see, part.keep)],
            words=plots.in_short,
        )
        moments.append(part.kept())
    (first, warm), frames = moments
    return [first, (0, warm[1]), *frames[1:]]


def main(config: Config) -> dict[str, Any]:
    """Trains, draws, and returns the summary."""
    check(config)

    def work(folder: RunFolder) -> dict[str, Any]:
        summary, panels, runs = {}, [], {}
        (folder.path / "samples").mkdir(exist_ok=True)
        for n_critic in config.n_critic:
            steps, seen, moments = [], [], []
            for step, found in train(config, build(config.width), n_critic, folder):
                figures = {name: found.pop(name) for name in FIGURES}
                steps.append(step)
                seen.append(figures)
                title = (
                    f"n_critic = {n_critic}: {step} updates of G\nV = {figures['value'][0]:.3f} "
                    f"(−log 4 = {-plots.LOG_4:.3f}),  JSD = {figures['jsd'][0]:.2g} nats"
                )
                moments.append(plots.Moment(title, **found))
            name = f"n_critic_{n_critic}"
            files = [folder.path / "samples" / f"{name}_{i:03d}.png" for i in range(len(moments))]
            for moment, file in zip(moments, files, strict=True):
                plots.moments([[moment]], file, limits=LIMITS)
            plots.history(files, folder.path / f"{name}.gif", folder.path / f"{name}.png")
            over_steps = {key: np.stack([figures[key] for figures in seen]) for key in seen[0]}
            runs[f"n_critic = {n_critic}"] = (np.array(steps), over_steps)
            # During: the first moment at which seed 0 has lost three quarters of its divergence.
            jsd = over_steps["jsd"][:, 0]
            during = max(2, int(np.argmax(jsd < jsd[0] / 4)))
            panels.append(
                [
                    moments[i]._replace(title=f"{what}\n{moments[i].title}")
                    for what, i in zip(PANELS, (0, 1, during, -1), strict=True)
                ]
            )
            summary[name] = {
                "generator_updates": steps[-1],
                "discriminator_updates": config.warmup + n_critic * steps[-1],
                **{key: _over_seeds(values[-1]) for key, values in over_steps.items()},
            }
        plots.moments(panels, folder.path / "demonstration.png", limits=LIMITS)
        plots.convergence(runs, folder.path / "curves.png")
        gifs = [f"n_critic_{k}.{kind}" for k in config.n_critic for kind in ("gif", "png")]
        return {
            "protocol": PROTOCOL,
            "optimum": -plots.LOG_4,
            **summary,
            "pictures": ["demonstration.png", "curves.png", *gifs],
        }

    return cli.record("gaussian_1d", config, work)


def _over_seeds(values: np.ndarray) -> dict[str, Any]:
    spread = {"mean": float(values.mean()), "std": float(values.std()), "max": float(values.max())}
    return {"each": values.tolist(), **spread}


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
