"""A GAN learns a Gaussian on the line, with exact densities (Goodfellow et al. 2014, figure 1).

The experiment computes the generator's density p_g, the optimal discriminator D* and JSD(p, p_g)
without sampling. It compares training with proposition 1 (D follows D*), theorem 1 (V ends at
-log 4) and proposition 2 (p_g becomes p). Each number in --n-critic gives a separate training. The
number 1 is plain Algorithm 1. Larger numbers keep D near D*, as proposition 2 assumes. The
experiment writes demonstration.png, curves.png, samples/ (one picture for each measurement),
n_critic_*.gif, n_critic_*.png, summary.json and trainings/ (checkpoints) to --workdir. The same
command resumes a run that was stopped.
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

from experiments.shared import Seen, watched
from gan_jax import GAN, Batch, TrainState, adversarial, from_linen, theory
from gan_jax.data import synthetic
from gan_jax.errors import UserError
from gan_jax.losses import minimax
from gan_jax.parallel import Step
from gan_jax.run import RunFolder, cli, plots
from gan_jax.run.folder import Record
from gan_jax.theory.quadrature import expectation, integral, interval
from gan_jax.types import Array, Metrics, Network, PyTree

DATA = synthetic.gaussian(1.0, 0.5)
PRIOR = synthetic.gaussian()
"""Prior of z. The paper has a uniform z. With a uniform z, G(z) is bounded, so p_g of a small
smooth G has no mass in the tails of p. A missing mass m would add m log(2) / 2 to the JSD."""

NODES, WEIGHTS = interval(-5.0, 7.0, 601)
"""Quadrature over x, up to 12 standard deviations from the mean of the data."""
LATENTS, LATENT_WEIGHTS = interval(-8.0, 8.0, 161)
"""Quadrature over z."""
SEARCHED = interval(-8.05, 8.05, 162)[0][:, None]
"""[M, 1] ends of the intervals in which G(z) = x is solved for z. They enclose all `LATENTS`."""
LOG_2 = plots.LOG_4 / 2
ARROWS = jnp.array([[NormalDist().inv_cdf((i + 0.5) / 25)] for i in range(25)])
"""[25, 1] quantiles of the prior at the probabilities (k - 1/2) / 25, for k from 1 to 25."""
LIMITS = (-2.5, 3.5)
"""Range of x and z in the pictures."""
PANELS = ("(a) untrained", "(b) D trained, G not yet", "(c) during", "(d) at the end")
METRICS = ("jsd", "value", "off_half", "p_g_mass")
"""Numbers that `examine` computes for each seed."""
PROTOCOL = (
    "After training, over seeds 0, 1, ...: each, mean, std (population), max; in nats, float32. "
    f"Trapezoidal rule over x, {NODES.size} nodes on [{NODES[0]}, {NODES[-1]}], and over z, "
    f"{LATENTS.size} nodes on [-8, 8]; p_g is exact. off_half: max |D - 1/2| where (p + p_g) / 2 "
    "is over 1% of p's peak. p_g_mass: the integral of p_g over x; 1 where G does not fold."
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The trainings and their lengths."""

    workdir: Path = Path("runs/gaussian_1d")
    """Folder of the run. A run in it is resumed, or left unchanged if complete."""
    n_critic: tuple[int, ...] = (1, 10)
    """Updates of D for each update of G (k of Algorithm 1). Each number gives one training."""
    num_updates: int = 10_000
    """Updates of D and G together in each training. One in n_critic + 1 is an update of G."""
    warmup: int = 200
    """Updates of D before the first update of G. Panel (b) of demonstration.png shows D after
    these updates."""
    seeds: int = 10
    """Number of GANs in each training, with seeds 0, 1, ... The pictures show seed 0."""
    batch_size: int = 512
    """Real samples in a minibatch. D also gets the same number of fakes."""
    width: int = 16
    """Units in each of the two hidden layers of both networks."""
    discriminator_lr: float = 1e-2
    """Adam's initial learning rate for D. It decays to 0 along half a cosine."""
    generator_lr: tuple[float, ...] = (1e-4, 2e-3)
    """Adam's initial learning rate for G, one for each --n-critic. It decays like D's rate."""
    frames: int = 32
    """Number of times during training that metrics are computed and a picture is drawn."""


def build(width: int) -> GAN:
    """Returns two smooth perceptrons with two hidden layers and z ~ N(0, 1).

    p_g depends on the slope of G, so the activations are smooth.
    """

    def perceptron(*last: Callable[[Array], Array]) -> Network:
        hidden: list[Any] = [nn.Dense(width), nn.softplus, nn.Dense(width), nn.softplus]
        return from_linen(nn.Sequential([*hidden, nn.Dense(1), *last]))

    return GAN(perceptron(), perceptron(lambda y: y[:, 0]), PRIOR.sample)


def check(config: Config) -> None:
    """Raises `UserError` for an invalid setting."""
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
    """Returns G(z): [N, 1] -> [N, 1]."""
    return gan.generator.apply(params, {}, z, train=False)[0]


def log_p_g(gan: GAN, params: PyTree, x: Array) -> Array:
    """Returns the exact log density of G's samples: x [N] -> [N].

    The density is NaN where more than four z lead to one x.
    """

    def of_one(z: Array) -> Array:
        return generate(gan, params, z[None])[0]

    return theory.branched_log_prob(of_one, x[:, None], SEARCHED, PRIOR.log_prob, num_branches=4)


def examine(gan: GAN, state: TrainState) -> tuple[Metrics, Metrics]:
    """Returns metrics [] of one state by quadrature, and the functions of x [N] to draw.

    p_g is infinite at values of x where the slope of G is 0. Means over G's samples are therefore
    computed over z: E_q[f(x)] = E_z[f(G(z))]. Only D* needs p_g. `off_half` is max |D - 1/2| over
    the nodes where (p + p_g) / 2 is above 1% of the maximum of p. `p_g_mass` is p_g's integral.
    """
    params, player, num = state.generator.params, state.discriminator, NODES.size
    z = LATENTS[:, None]
    x = jnp.concatenate([NODES[:, None], generate(gan, params, z)])
    log_p, log_q = DATA.log_prob(x), log_p_g(gan, params, x[:, 0])
    # The search can miss the z that made a sample, because of rounding, if G's slope there is near
    # 0. The density is at least the part of it that this z contributes.
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
    metrics = {
        "jsd": value(best) / 2,
        "value": value(logit) - 2 * LOG_2,
        "off_half": jnp.max(jnp.where((p + p_g) / 2 > 0.01 * p.max(), jnp.abs(d - 0.5), 0.0)),
        "p_g_mass": integral(p_g, WEIGHTS),
    }
    drawn = {"x": NODES, "p_data": p, "p_g": p_g, "discriminator": d}
    arrows = {"z": ARROWS[:, 0], "made": generate(gan, params, ARROWS)[:, 0]}
    return metrics, {**drawn, "optimal": jax.nn.sigmoid(best[:num]), **arrows}


def play(config: Config, gan: GAN, n_critic: int, rounds: int) -> tuple[TrainState, Step, Step]:
    """Returns the initial states [seeds], a step that updates only D, and the train step.

    Both steps draw their own real samples. `rounds` is the total number of train steps.
    """
    generator_lr = config.generator_lr[config.n_critic.index(n_critic)]
    warmup_lr = optax.constant_schedule(config.discriminator_lr)
    falling_lr = optax.cosine_decay_schedule(config.discriminator_lr, rounds * n_critic)
    discriminator_lr = optax.join_schedules([warmup_lr, falling_lr], [config.warmup])
    algorithm = adversarial(
        gan,
        minimax,
        generator_tx=optax.adam(optax.cosine_decay_schedule(generator_lr, rounds), b1=0.0, b2=0.99),
        discriminator_tx=optax.adam(discriminator_lr, b1=0.0, b2=0.99),
        n_critic=n_critic,
    )

    def start(seed: Array) -> TrainState:
        return algorithm.init(jax.random.key(seed), Batch(jnp.zeros((2, 1))))

    return (
        jax.jit(jax.vmap(start))(jnp.arange(config.seeds)),
        synthetic.feed(algorithm.discriminator_step, DATA, (config.batch_size,)),
        synthetic.feed(algorithm.step, DATA, (n_critic, config.batch_size)),
    )


def train(config: Config, gan: GAN, n_critic: int, folder: RunFolder) -> Seen:
    """Trains all seeds at once. Returns the numbers of G's updates and the results of `examine`.

    `examine` is called before and after the warm-up, and `frames` times during training. The
    metrics are arrays [seeds] over all seeds. The functions are those of seed 0.
    """
    chunk = config.num_updates // (n_critic + 1) // config.frames
    rounds, name = chunk * config.frames, f"n_critic_{n_critic}"
    states, warmup_step, train_step = play(config, gan, n_critic, rounds)

    def see(states: TrainState) -> Metrics:
        metrics, drawn = jax.lax.map(partial(examine, gan), states)
        return metrics | {name: values[0] for name, values in drawn.items()}

    def trained(part: str, step: Step, num_steps: int, every: int) -> tuple[TrainState, Seen]:
        options: dict[str, Any] = {"num_steps": num_steps, "layout": "ensemble"}
        return watched(folder, f"{name}_{part}", step, states, see, every=every, **options)

    states, first = trained("warmup", warmup_step, config.warmup, config.warmup)
    _, rest = trained("training", train_step, rounds, chunk)
    first["step"][:] = 0  # G does not move in the warm-up
    return {name: np.concatenate([first[name], rest[name][1:]]) for name in first}


def main(config: Config) -> Record:
    """Trains, draws the pictures and returns the summary."""
    check(config)
    return cli.record("gaussian_1d", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    summary: Record = {"protocol": PROTOCOL, "optimum": -plots.LOG_4}
    runs, panels, pictures = {}, [], ["demonstration.png", "curves.png"]
    folder.samples.mkdir(exist_ok=True)
    for n_critic in config.n_critic:
        name = f"n_critic_{n_critic}"
        seen = train(config, build(config.width), n_critic, folder)
        metrics = {key: seen.pop(key) for key in METRICS}
        steps, value, jsd = seen.pop("step"), metrics["value"][:, 0], metrics["jsd"][:, 0]
        moments = []
        for i, step in enumerate(steps):
            title = (
                f"n_critic = {n_critic}: {step} updates of G\nV = {value[i]:.3f} "
                f"(−log 4 = {-plots.LOG_4:.3f}),  JSD = {jsd[i]:.2g} nats"
            )
            moments.append(plots.Moment(title, **{key: drawn[i] for key, drawn in seen.items()}))
        files = [folder.samples / f"{name}_{i:03d}.png" for i in range(len(moments))]
        for moment, file in zip(moments, files, strict=True):
            plots.moments([[moment]], file, limits=LIMITS)
        gif, strip = f"{name}.gif", f"{name}.png"
        plots.history(files, folder.path / gif, folder.path / strip)
        pictures += [gif, strip]
        runs[f"n_critic = {n_critic}"] = (steps, metrics)
        # "During" is the first moment at which seed 0 has lost three quarters of its divergence.
        during = max(2, int(np.argmax(jsd < jsd[0] / 4)))
        shown = zip(PANELS, (moments[i] for i in (0, 1, during, -1)), strict=True)
        panels.append([moment._replace(title=f"{p}\n{moment.title}") for p, moment in shown])
        summary[name] = {
            "generator_updates": int(steps[-1]),
            "discriminator_updates": config.warmup + n_critic * int(steps[-1]),
            **{key: _over_seeds(values[-1]) for key, values in metrics.items()},
        }
    plots.moments(panels, folder.path / "demonstration.png", limits=LIMITS)
    plots.convergence(runs, folder.path / "curves.png")
    return {**summary, "pictures": pictures}


def _over_seeds(values: np.ndarray) -> Record:
    spread = {"mean": float(values.mean()), "std": float(values.std()), "max": float(values.max())}
    return {"each": values.tolist(), **spread}


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
