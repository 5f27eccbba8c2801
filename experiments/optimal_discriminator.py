"""The best discriminator against a fixed generator: a trained D beside D* = p / (p + q).

Goodfellow et al. 2014, proposition 1. G is the identity on z ~ q, so that p and q are known and V
is an exact sum: training raises it to 2 JSD - log 4, and not past it. Writes to --workdir:
discriminators.png, bound.png, summary.json and, with the checkpoints, trainings/. The same command
resumes a run that was stopped.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax import (
    GAN,
    Batch,
    Network,
    from_linen,
    init,
    losses,
    make_discriminator_step,
    run,
    theory,
)
from gan_jax.data.synthetic import Distribution, feed, gaussian, mixture
from gan_jax.errors import UserError
from gan_jax.run import Look, RunFolder, cli, plots
from gan_jax.run.folder import Record
from gan_jax.run.plots.charts import LOG_4, chart, save_chart
from gan_jax.theory.quadrature import box, interval
from gan_jax.types import Array, PyTree

FLOOR = 0.01
"""D is compared with D* at the nodes where m = (p + q) / 2 is above this share of its maximum."""


@dataclasses.dataclass(frozen=True)
class Config:
    """How long, and on how many samples, each discriminator is trained."""

    workdir: Path = Path("runs/optimal_discriminator")
    """The run's folder. A run that is there already is resumed, or left alone if complete."""
    num_steps: int = 6000
    """Updates of the discriminator."""
    batch_size: int = 4096
    """Fresh real samples in each update, and as many fake ones."""
    learning_rate: float = 1e-2
    """Adam's, at the start; it falls to 0 along a cosine, so that D comes to rest."""
    record_every: int = 20
    """Updates between two exact values of V."""
    num_samples: int = 1_000_000
    """Fresh real samples, and as many fake ones, for the sampled V after training."""
    seed: int = 0
    """Of D's weights and of all samples."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A game with G fixed: p of the data, q of the fakes, D, and where to sum over x."""

    p: Distribution
    q: Distribution
    discriminator: Network
    limits: tuple[tuple[float, float], ...] = ()
    """(low, high) in each dimension; none: the modes of p are all the outcomes there are."""

    def nodes(self) -> tuple[Array, Array]:
        """Nodes and weights of the quadrature: [N, D], [N]."""
        if not self.limits:
            return jnp.asarray(self.p.modes), jnp.ones(len(self.p.modes))
        return box(*(interval(*ends, {1: 401, 2: 101}[len(self.limits)]) for ends in self.limits))

    def logits(self, params: PyTree, x: Array) -> Array:
        """logit D: [N, D] -> [N]."""
        return self.discriminator.apply(params, {}, x, train=False)[0]


class _Smooth(nn.Module):
    """A perceptron without kinks: the logits it is to learn, log p - log q, have none."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(3):
            x = nn.swish(nn.Dense(32)(x))
        return nn.Dense(1)(x)[:, 0]


def table(*shares: float) -> Distribution:
    """Outcomes 0.0, 1.0, ... [N, 1]; `log_prob` is that of a probability, not of a density."""
    log_p = np.log(shares)
    return Distribution(
        lambda key, num: jax.random.categorical(key, log_p, shape=(num, 1)).astype(float),
        lambda x: jnp.asarray(log_p, x.dtype)[x[:, 0].astype(int)],
        np.arange(float(len(shares)))[:, None],
    )


def _bare(params: PyTree, apply: Callable[[PyTree, Array], Array]) -> Network:
    """The network `apply(params, x)` that starts from `params`."""
    return Network(lambda *_: (params, {}), lambda params, _, x, *__, **___: (apply(params, x), {}))


IDENTITY = _bare({}, lambda _, z: z)  # what the prior draws is what G makes
_SMOOTH = from_linen(_Smooth())
_TABLE = _bare(np.zeros(3, np.float32), lambda logits, x: jnp.asarray(logits)[x[:, 0].astype(int)])
_TWO = mixture(np.array([[-2.0], [2.0]]), 0.6, np.array([0.3, 0.7]))
_THREE = mixture(np.array([[-1.0], [1.0], [3.0]]), np.array([0.8, 0.5, 0.7]))
_ACROSS = mixture(np.array([[-1.2, 0.0], [1.2, 0.0]]), 0.8)
_UPRIGHT = mixture(np.array([[0.0, -1.2], [0.0, 1.2]]), 0.8, np.array([0.4, 0.6]))
CASES = {
    "shifted Gaussians": Case(gaussian(), gaussian(1.0), _SMOOTH, ((-9.0, 10.0),)),
    "Gaussians of two widths": Case(gaussian(), gaussian(0.0, 2.0), _SMOOTH, ((-16.0, 16.0),)),
    "mixtures on the line": Case(_TWO, _THREE, _SMOOTH, ((-8.0, 9.0),)),
    "three outcomes": Case(table(0.5, 0.3, 0.2), table(0.2, 0.3, 0.5), _TABLE),
    "mixtures in the plane": Case(_ACROSS, _UPRIGHT, _SMOOTH, ((-7.0, 7.0), (-7.0, 7.0))),
}


def train(case: Case, config: Config, name: str, folder: RunFolder) -> tuple[PyTree, list[float]]:
    """D's parameters after training; the exact V before it and every `record_every` updates."""
    tx = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps))
    gan = GAN(IDENTITY, case.discriminator, case.q.sample)
    key = jax.random.key(config.seed)
    example = Batch(case.p.sample(key, 2))  # for its shape
    part = folder.part(f"trainings/{name.replace(' ', '_')}")

    def show(step: int, params: PyTree) -> None:
        part.log({"step": step, "exact_value": exact(case, params)[0]["exact_value"]})

    state = run.train(
        feed(make_discriminator_step(gan, losses.minimax, tx), case.p, (config.batch_size,)),
        jax.jit(partial(init, gan, optax.identity(), tx, batch=example))(key),
        folder=part,
        num_steps=config.num_steps,
        chunk_length=config.record_every,
        layout="jit",
        looks=[Look(config.record_every, lambda state: state.discriminator.params, show)],
        words=plots.in_short,
    )
    values = [record["exact_value"] for record in part.metrics() if "exact_value" in record]
    return state.discriminator.params, values


def exact(case: Case, params: PyTree) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """By quadrature in float64: V, its bound, max |D - D*| where m has mass; and what to draw."""
    with jax.enable_x64(True):
        figures, drawn = _exact(case, params)
        return jax.tree.map(float, figures), jax.tree.map(np.asarray, drawn)


@partial(jax.jit, static_argnums=0)
def _exact(case: Case, params: PyTree) -> tuple[dict[str, Array], dict[str, Array]]:
    x, weights = case.nodes()
    log_p, log_q, logits = case.p.log_prob(x), case.q.log_prob(x), case.logits(params, x)
    p, q, made = jnp.exp(log_p), jnp.exp(log_q), jax.nn.sigmoid(logits)
    best = theory.optimal_discriminator(log_p, log_q)
    inside = p + q > FLOOR * jnp.max(p + q)
    return {
        "bound": 2 * theory.js_divergence(log_p, log_q, weights) - LOG_4,
        "exact_value": theory.value(logits, log_p, log_q, weights),
        "max_error": jnp.max(jnp.where(inside, jnp.abs(made - best), 0.0)),
        "mass_compared": jnp.sum(jnp.where(inside, weights * (p + q) / 2, 0.0)),
    }, {"x": x, "weights": weights, "p": p, "q": q, "D*": best, "D": made}


def sampled(case: Case, params: PyTree, num: int, key: Array) -> dict[str, float]:
    """V on `num` fresh real samples and as many fakes, and its standard error."""
    keys = jax.random.split(key)
    real = jax.nn.log_sigmoid(case.logits(params, case.p.sample(keys[0], num)))
    fake = jax.nn.log_sigmoid(-case.logits(params, case.q.sample(keys[1], num)))
    parts = np.asarray([real, fake], np.float64)
    error = float(np.sqrt(parts.var(axis=1).sum() / num))
    return {"sampled_value": float(parts.mean(axis=1).sum()), "standard_error": error}


def main(config: Config) -> Record:
    """Trains a discriminator for each of `CASES`; returns the summary."""
    cli.check_at_least(config, num_steps=1, batch_size=1, record_every=1, num_samples=1)
    cli.check_above_zero(config, "learning_rate")
    cli.check_seed(config)
    if config.num_steps % config.record_every:
        every = f"a multiple of --record-every ({config.record_every})"
        raise UserError(f"--num-steps must be {every}, got {config.num_steps}")
    return cli.record("optimal_discriminator", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    drawn, values, figures = {}, {}, {}
    key = jax.random.fold_in(jax.random.key(config.seed), 2)  # not one that training draws from
    for name, case in CASES.items():
        params, values[name] = train(case, config, name, folder)
        made, drawn[name] = exact(case, params)
        figures[name] = made | sampled(case, params, config.num_samples, key)
        figures[name]["gap"] = made["bound"] - made["exact_value"]
        figures[name]["smallest_gap_in_training"] = made["bound"] - max(values[name])
        figures[name]["nodes"] = len(drawn[name]["x"])
    _draw_discriminators(drawn, folder.path / "discriminators.png")
    _draw_bound(values, figures, config.record_every, folder.path / "bound.png")
    protocol = (
        f"seed {config.seed}, {config.num_steps} updates on {config.batch_size} real and as many "
        f"fake samples; exact: quadrature; sampled: {config.num_samples} of each; in nats, but "
        f"max_error: of a probability, at nodes where (p+q)/2 > {FLOOR} of its maximum"
    )
    worst = {f"worst_{x}": max(made[x] for made in figures.values()) for x in ("max_error", "gap")}
    pictures = ["discriminators.png", "bound.png"]
    return {"cases": figures, **worst, "protocol": protocol, "pictures": pictures}


def _draw_discriminators(drawn: dict[str, dict[str, np.ndarray]], file: Path) -> None:
    """D on D* over p and q; the case in the plane as maps, in the second row."""
    figure, grid = chart(2, 4, size=(18, 8.5))
    upper = iter(grid[0])
    for name, made in drawn.items():
        seen = made["p"] + made["q"] > FLOOR * np.max(made["p"] + made["q"])
        if made["x"].shape[1] == 2:
            _draw_maps(grid[1], name, made, seen)
            continue
        at = {label: values[seen] for label, values in made.items()}
        axes, x, style = next(upper), at["x"][:, 0], "-" if CASES[name].limits else "o"
        axes.bar(x, at["p"], at["weights"], alpha=0.3, label="p, data")
        axes.bar(x, at["q"], at["weights"], color="tab:red", alpha=0.3, label="q, fakes")
        axes.plot(x, at["D*"], "k" + style, lw=5, ms=14, alpha=0.3, label="D*")
        axes.plot(x, at["D"], "g" + style, label="D, trained")
        axes.set(title=name, xlabel="x", ylabel="D: probability; p, q: density", ylim=(0, 1.3))
        axes.legend(loc="upper center", ncols=2, fontsize=9)
    figure.suptitle("Against a fixed generator, the trained discriminator finds D* = p / (p + q)")
    save_chart(figure, file, dpi=100)


def _draw_maps(row: Any, name: str, made: dict[str, np.ndarray], seen: np.ndarray) -> None:
    """Functions on the plane, where the density is not next to nothing."""
    maps = {f"{name}: p - q": (made["p"] - made["q"], -0.16, 0.16), "D*": (made["D*"], 0, 1)}
    maps |= {"D, trained": (made["D"], 0, 1), "D - D*": (made["D"] - made["D*"], -0.02, 0.02)}
    for axes, (title, (values, low, high)) in zip(row, maps.items(), strict=True):
        grid = [v.reshape(101, 101) for v in (*made["x"].T, np.where(seen, values, np.nan))]
        shades = axes.contourf(*grid, np.linspace(low, high, 11), cmap="RdBu", extend="both")
        axes.figure.colorbar(shades, ax=axes)
        axes.set(xlim=(-4, 4), ylim=(-4, 4), xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
        axes.set_title(title)


def _draw_bound(values: dict[str, list[float]], figures: Record, every: int, file: Path) -> None:
    """V below its ceiling, and the distance that is left."""
    figure, (left, right) = chart(1, 2, size=(13, 5))
    for i, (name, made) in enumerate(values.items()):
        steps, bound = every * np.arange(len(made)), figures[name]["bound"]
        left.plot(steps, made, f"C{i}", label=name)
        left.axhline(bound, color=f"C{i}", ls="--", lw=1)
        right.semilogy(steps, bound - np.asarray(made), f"C{i}", lw=1)
    left.plot([], [], "k--", lw=1, label="its ceiling, 2 JSD - log 4")
    left.set(title="Training D raises V to its ceiling, not past it", ylabel="V(D, G), nats")
    left.set_ylim(-1.55)
    left.legend(loc="lower right", ncols=2, fontsize=9)
    right.set(
        title="The rest is noise, until the learning rate falls", ylabel="2 JSD - log 4 - V, nats"
    )
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=every)  # linear up to the first record
        axes.set(xlabel="updates of D", xlim=(0, None))
        axes.grid(alpha=0.3)
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
