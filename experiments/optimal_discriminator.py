"""A trained D compared with the optimal D* = p / (p + q), for a fixed generator.

This is proposition 1 of Goodfellow et al. 2014. G is the identity on z ~ q, so p and q are known
and V is an exact sum. Training D raises V towards its upper bound, 2 JSD - log 4. The experiment
writes discriminators.png, bound.png, summary.json and trainings/ (checkpoints) to --workdir. The
same command resumes a run that was stopped.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import many
from experiments.shared import bare
from gan_jax import GAN, Batch, Network, adversarial, from_linen, losses, run, theory
from gan_jax.data.synthetic import Distribution, feed, gaussian, mixture
from gan_jax.run import Look, RunFolder, cli, plots
from gan_jax.run.folder import Record
from gan_jax.run.plots.charts import LOG_4, chart, save_chart
from gan_jax.theory.quadrature import box, interval
from gan_jax.types import Array, PyTree

FLOOR = 0.01
"""D and D* are compared at the nodes where (p + q) / 2 is above this fraction of its maximum."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the trainings and of the measurement."""

    workdir: Path = Path("runs/optimal_discriminator")
    """Folder of the run. A run in it is resumed, or left unchanged if complete."""
    num_steps: int = 6000
    """Updates of the discriminator."""
    batch_size: int = 4096
    """Fresh real samples in each update. D also gets the same number of fakes."""
    learning_rate: float = 1e-2
    """Adam's initial learning rate. It decays to 0 along half a cosine."""
    record_every: int = 20
    """Updates between two exact values of V."""
    num_samples: int = 1_000_000
    """Number of real samples, and of fakes, with which V is estimated after training."""
    seed: int = 0
    """Seed of D's weights and of all samples."""


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A game with a fixed G.

    Attributes:
      p, q: the distributions of the real samples and of the fakes.
      discriminator: D.
      limits: (low, high) of the quadrature in each dimension. If it is empty, x is discrete, and
        the modes of p are all values of x.
    """

    p: Distribution
    q: Distribution
    discriminator: Network
    limits: tuple[tuple[float, float], ...] = ()

    def nodes(self) -> tuple[Array, Array]:
        """Returns the nodes [N, D] and the weights [N] of the quadrature."""
        if not self.limits:
            return jnp.asarray(self.p.modes), jnp.ones(len(self.p.modes))
        return box(*(interval(*ends, {1: 401, 2: 101}[len(self.limits)]) for ends in self.limits))

    def logits(self, params: PyTree, x: Array) -> Array:
        """Returns the logits of D: [N, D] -> [N]."""
        return self.discriminator.apply(params, {}, x, train=False)[0]


class _Smooth(nn.Module):
    """A perceptron with a smooth activation, because the optimal logit log p - log q is smooth."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(3):
            x = nn.swish(nn.Dense(32)(x))
        return nn.Dense(1)(x)[:, 0]


def table(*shares: float) -> Distribution:
    """Returns the distribution of x [N, 1] on 0.0, 1.0, ... that has these probabilities."""
    log_p = np.log(shares)
    return Distribution(
        lambda key, num: jax.random.categorical(key, log_p, shape=(num, 1)).astype(float),
        lambda x: jnp.asarray(log_p, x.dtype)[x[:, 0].astype(int)],
        np.arange(float(len(shares)))[:, None],
    )


IDENTITY = bare({}, lambda _, z: z)
_SMOOTH = from_linen(_Smooth())
_TABLE = bare(np.zeros(3, np.float32), lambda logits, x: jnp.asarray(logits)[x[:, 0].astype(int)])
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
    """Trains D. Returns its parameters, and V before training and every `record_every` updates."""
    gan = GAN(IDENTITY, case.discriminator, case.q.sample)
    tx = optax.adam(optax.cosine_decay_schedule(config.learning_rate, config.num_steps))
    game = adversarial(gan, losses.minimax, generator_tx=optax.identity(), discriminator_tx=tx)
    key = jax.random.key(config.seed)
    example = Batch(case.p.sample(key, 2))  # for its shape
    part = folder.part(f"trainings/{name.replace(' ', '_')}")

    def show(step: int, params: PyTree) -> None:
        part.log({"step": step, "exact_value": exact(case, params)[0]["exact_value"]})

    state = run.train(
        feed(game.discriminator_step, case.p, (config.batch_size,)),
        jax.jit(lambda key: game.init(key, example))(key),
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
    """Returns the metrics of D by quadrature in float64, and the functions of x for the pictures.

    The metrics are V, its upper bound, and the largest |D - D*| where (p + q) / 2 is not tiny.
    """
    with jax.enable_x64(True):
        metrics, drawn = _exact(case, params)
        return jax.tree.map(float, metrics), jax.tree.map(np.asarray, drawn)


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
    """Returns V and its standard error, from `num` real samples and `num` fakes."""
    keys = jax.random.split(key)
    real = jax.nn.log_sigmoid(case.logits(params, case.p.sample(keys[0], num)))
    fake = jax.nn.log_sigmoid(-case.logits(params, case.q.sample(keys[1], num)))
    parts = np.asarray([real, fake], np.float64)
    error = float(np.sqrt(parts.var(axis=1).sum() / num))
    return {"sampled_value": float(parts.mean(axis=1).sum()), "standard_error": error}


def main(config: Config) -> Record:
    """Trains a discriminator for each of `CASES` and returns the summary."""
    cli.check_at_least(config, num_steps=1, batch_size=1, record_every=1, num_samples=1)
    cli.check_above_zero(config, "learning_rate")
    cli.check_seed(config)
    many.check_multiple(config.num_steps, config.record_every, "--record-every")
    return cli.record("optimal_discriminator", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    drawn, values, metrics = {}, {}, {}
    key = jax.random.fold_in(jax.random.key(config.seed), 2)  # training does not draw from it
    for name, case in CASES.items():
        params, values[name] = train(case, config, name, folder)
        found, drawn[name] = exact(case, params)
        metrics[name] = {
            **found,
            **sampled(case, params, config.num_samples, key),
            "gap": found["bound"] - found["exact_value"],
            "smallest_gap_in_training": found["bound"] - max(values[name]),
            "nodes": len(drawn[name]["x"]),
        }
    _draw_discriminators(drawn, folder.path / "discriminators.png")
    _draw_bound(values, metrics, config.record_every, folder.path / "bound.png")
    protocol = (
        f"seed {config.seed}, {config.num_steps} updates on {config.batch_size} real samples and "
        f"as many fakes; exact: quadrature; sampled: {config.num_samples} of each; all in nats, "
        f"except max_error: a probability, at nodes where (p+q)/2 > {FLOOR} of its maximum"
    )
    return {
        "cases": metrics,
        "worst_max_error": max(found["max_error"] for found in metrics.values()),
        "worst_gap": max(found["gap"] for found in metrics.values()),
        "protocol": protocol,
        "pictures": ["discriminators.png", "bound.png"],
    }


def _draw_discriminators(drawn: dict[str, dict[str, np.ndarray]], file: Path) -> None:
    """Plots D, D*, p and q for each case. The case in the plane has maps in the second row."""
    figure, grid = chart(2, 4, size=(18, 8.5))
    upper = iter(grid[0])
    for name, found in drawn.items():
        seen = found["p"] + found["q"] > FLOOR * np.max(found["p"] + found["q"])
        if found["x"].shape[1] == 2:
            _draw_maps(grid[1], name, found, seen)
            continue
        at = {label: values[seen] for label, values in found.items()}
        axes, x, style = next(upper), at["x"][:, 0], "-" if CASES[name].limits else "o"
        axes.bar(x, at["p"], at["weights"], alpha=0.3, label="p, data")
        axes.bar(x, at["q"], at["weights"], color="tab:red", alpha=0.3, label="q, fakes")
        axes.plot(x, at["D*"], "k" + style, lw=5, ms=14, alpha=0.3, label="D*")
        axes.plot(x, at["D"], "g" + style, label="D, trained")
        axes.set(title=name, xlabel="x", ylabel="D: probability; p, q: density", ylim=(0, 1.3))
        axes.legend(loc="upper center", ncols=2, fontsize=9)
    figure.suptitle("Against a fixed generator, the trained discriminator finds D* = p / (p + q)")
    save_chart(figure, file, dpi=100)


def _draw_maps(row: Any, name: str, found: dict[str, np.ndarray], seen: np.ndarray) -> None:
    """Draws maps of functions on the plane, where the density is not negligible."""
    p, q, best, d = (found[label] for label in ("p", "q", "D*", "D"))
    maps = (
        (f"{name}: p - q", p - q, -0.16, 0.16),
        ("D*", best, 0, 1),
        ("D, trained", d, 0, 1),
        ("D - D*", d - best, -0.02, 0.02),
    )
    for axes, (title, values, low, high) in zip(row, maps, strict=True):
        grid = [v.reshape(101, 101) for v in (*found["x"].T, np.where(seen, values, np.nan))]
        shades = axes.contourf(*grid, np.linspace(low, high, 11), cmap="RdBu", extend="both")
        axes.figure.colorbar(shades, ax=axes)
        axes.set(xlim=(-4, 4), ylim=(-4, 4), xlabel="$x_1$", ylabel="$x_2$", aspect="equal")
        axes.set_title(title)


def _draw_bound(values: dict[str, list[float]], metrics: Record, every: int, file: Path) -> None:
    """Plots V with its upper bound, and the distance between the two."""
    figure, (left, right) = chart(1, 2, size=(13, 5))
    for i, (name, trained) in enumerate(values.items()):
        steps, bound = every * np.arange(len(trained)), metrics[name]["bound"]
        left.plot(steps, trained, f"C{i}", label=name)
        left.axhline(bound, color=f"C{i}", ls="--", lw=1)
        right.semilogy(steps, bound - np.asarray(trained), f"C{i}", lw=1)
    left.plot([], [], "k--", lw=1, label="bound, 2 JSD - log 4")
    left.set(title="Training D raises V to its bound, not past it", ylabel="V(D, G), nats")
    left.set_ylim(-1.55)
    left.legend(loc="lower right", ncols=2, fontsize=9)
    right.set_title("The rest is noise, until the learning rate decays")
    right.set_ylabel("2 JSD - log 4 - V, nats")
    for axes in (left, right):
        axes.set_xscale("symlog", linthresh=every)  # linear up to the first record
        axes.set(xlabel="updates of D", xlim=(0, None))
        axes.grid(alpha=0.3)
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
