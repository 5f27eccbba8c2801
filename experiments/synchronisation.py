"""Too many updates of G without an update of D make G collapse (Goodfellow et al. 2014, section 6).

The paper says: "G must not be trained too much without updating D, in order to avoid 'the Helvetica
scenario' in which G collapses too many values of z to the same value of x". The experiment shows
this on a ring of eight Gaussians. First, it trains with 1, 5 and 25 updates of G for each update of
D. Second, it freezes D halfway through a training while G goes on. It writes training.png,
frozen.png, summary.json and trainings/ (checkpoints) to --workdir. The same command resumes a run
that was stopped.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import many
from experiments.shared import Seen, watched
from gan_jax import GAN, Algorithm, Batch, TrainState, adversarial, losses, penalties
from gan_jax.data import synthetic
from gan_jax.errors import UserError
from gan_jax.metrics.modes import mode_coverage
from gan_jax.models.mlp import mlp
from gan_jax.parallel import Step
from gan_jax.run import RunFolder, cli
from gan_jax.run.folder import Record
from gan_jax.run.plots import chart, save_chart
from gan_jax.types import Array, Metrics, StepFn


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the trainings."""

    workdir: Path = Path("runs/synchronisation")
    """Folder of the run."""
    generator_steps: tuple[int, ...] = (1, 5, 25)
    """Updates of G for each update of D. Each number gives a separate training."""
    num_cycles: int = 1500
    """Updates of D in each training."""
    freeze_after: int = 300
    """Updates of D before it is frozen. One update of G follows each of them."""
    frozen_steps: int = 500
    """Updates of G after D is frozen."""
    seeds: int = 5
    """Number of GANs in each training. They are trained in one program."""
    batch_size: int = 128
    """Real samples in a minibatch. D also gets the same number of fakes."""
    width: int = 64
    """Units in each of the two hidden layers of both networks."""
    learning_rate: float = 1e-3
    """Adam's learning rate for both players."""
    r1: float = 0.1
    """Weight gamma of R1. The penalty is (gamma / 2) |grad D|^2. Without R1, the
    players circle around the equilibrium if both make equally many updates."""


RADIUS, SCALE = 1.0, 0.05
"""Radius of the ring, and the standard deviation of its modes."""
NUM_SAMPLES = 2500
"""Number of samples in which the modes are counted."""
EXTENT = 1.6
"""The pictures show x and y from minus this value to this value. Pictures with a frozen D show
twice this range."""


def build(config: Config) -> tuple[GAN, Algorithm]:
    """Returns a GAN of two perceptrons, and its training algorithm."""
    gan = mlp((2,), latent=2, width=config.width, bounded=False)
    tx = optax.adam(config.learning_rate, b1=0.5)
    weighted = [(penalties.r1, config.r1 / 2)] if config.r1 else []
    return gan, adversarial(
        gan, losses.non_saturating, generator_tx=tx, discriminator_tx=tx, penalties=weighted
    )


def make_cycle(d_step: StepFn, g_step: StepFn, num: int) -> StepFn:
    """Returns a step that updates D once and then G `num` times, on the same batch."""

    def cycle(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = d_step(state, batch)
        state = jax.lax.fori_loop(0, num, lambda _, s: g_step(s, batch)[0], state)
        return state, metrics

    return cycle


def check(config: Config) -> None:
    """Raises `UserError` for an invalid setting."""
    counts = ("num_cycles", "freeze_after", "frozen_steps", "seeds", "batch_size", "width")
    cli.check_at_least(config, **dict.fromkeys(counts, 1), r1=0)
    cli.check_above_zero(config, "learning_rate")
    steps = config.generator_steps
    if not steps or min(steps) < 1 or len(set(steps)) < len(steps):
        raise UserError(f"--generator-steps must be different numbers of at least 1, got {steps}")


def main(config: Config) -> Record:
    """Makes all trainings, counts modes, draws the pictures and returns the summary."""
    check(config)
    return cli.record("synchronisation", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    ring = synthetic.ring(8, RADIUS, SCALE)
    gan, algorithm = build(config)
    example = Batch(jnp.zeros((config.batch_size, 2)))

    def first() -> TrainState:
        keys = jax.vmap(jax.random.key)(jnp.arange(config.seeds))
        return jax.vmap(lambda key: algorithm.init(key, example))(keys)

    def cycles(num: int) -> Step:
        cycle = make_cycle(algorithm.discriminator_step, algorithm.generator_step, num)
        return synthetic.feed(cycle, ring, (config.batch_size,))

    def alone(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        return algorithm.generator_step(state, example)  # reads only the batch's size

    def see(states: TrainState) -> dict[str, Array]:
        """Returns samples [NUM_SAMPLES, 2] of the first seed, and the modes found by every seed."""
        key = jax.random.key(config.seeds)  # no training uses it
        x = jax.vmap(lambda s: algorithm.sample(s, key, NUM_SAMPLES, ema=False))(states)
        found = jax.vmap(lambda x: mode_coverage(x, jnp.asarray(ring.modes), SCALE))(x)
        return {"x": x[0], **found._asdict()}

    def train(
        name: str, step: Step, states: TrainState, num_steps: int, most: int
    ) -> tuple[TrainState, Seen]:
        marks = np.unique(np.linspace(0, num_steps, most + 1).round().astype(int)).tolist()
        options: dict[str, Any] = {"num_steps": num_steps, "layout": "ensemble"}
        return watched(folder, name, step, states, see, every=marks, **options)

    trained = {
        num: train(f"generator_steps_{num}", cycles(num), first(), config.num_cycles, 30)[1]
        for num in config.generator_steps
    }
    states, _ = train("balanced", cycles(1), first(), config.freeze_after, 1)
    states, frozen = train("frozen", alone, states, config.frozen_steps, 50)
    last = jax.tree.map(lambda leaf: leaf[0], states)
    belief = np.asarray(many.judged(gan, last, 2 * EXTENT, 161))

    _draw_training(folder.path / "training.png", trained, ring.modes)
    _draw_frozen(folder.path / "frozen.png", frozen, ring.modes, belief)
    return {
        "protocol": f"ring of 8 modes, radius {RADIUS}, standard deviation {SCALE}; {NUM_SAMPLES} "
        "samples for each metric; one entry for each seed, from 0 on",
        "training": {str(num): _metrics(seen, -1) for num, seen in trained.items()},
        "frozen": {"before": _metrics(frozen, 0), "after": _metrics(frozen, -1)},
        "pictures": ["training.png", "frozen.png"],
    }


def _effective(seen: Seen) -> np.ndarray:
    """Returns the exponential of the entropy of the histogram of nearest modes.

    It is 8 if all modes are equally frequent, and 1 if all samples belong to one mode.
    """
    return 8 * np.exp(-seen["reverse_kl"])


def _metrics(seen: Seen, moment: int) -> Record:
    return {
        "modes_captured": seen["captured"][moment].tolist(),
        "effective_modes": _effective(seen)[moment].round(3).tolist(),
        "high_quality": seen["high_quality"][moment].round(4).tolist(),
    }


def _plot(axes: Any, seen: Seen, color: str, label: str | None = None) -> None:
    """Plots the effective number of modes of every seed, and the mean over the seeds."""
    effective = _effective(seen)
    axes.plot(seen["step"], effective, color=color, lw=0.7, alpha=0.5)
    axes.plot(seen["step"], effective.mean(axis=1), color=color, lw=2.2, label=label)
    axes.set(ylabel="effective modes, of 8", ylim=(0.5, 8.3))
    axes.grid(alpha=0.3)


def _scatter(axes: Any, x: np.ndarray, modes: np.ndarray, extent: float) -> None:
    axes.scatter(*x[:1000].T, s=3, color="tab:red", lw=0, label="samples of G")
    axes.scatter(*modes.T, s=90, facecolors="none", edgecolors="black", lw=0.8, label="modes")
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[], yticks=[])


def _draw_training(file: Path, trained: dict[int, Seen], modes: np.ndarray) -> None:
    num = len(trained)
    size, ratios = (4.2 + 2.9 * num, 3.5), [1.45] + [1] * num
    figure, (curves, *panels) = chart(1, 1 + num, size=size, width_ratios=ratios)
    for number, (axes, (steps, seen)) in enumerate(zip(panels, trained.items(), strict=True)):
        label = f"{steps} of G for each of D"
        _plot(curves, seen, f"C{number}", label)
        _scatter(axes, seen["x"][-1], modes, EXTENT)
        captured = ", ".join(map(str, seen["captured"][-1]))
        axes.set_title(f"{label}\nmodes captured: {captured}", fontsize=9)
    curves.set_xlabel("updates of D")
    curves.set_title("each seed, and their mean (bold)", fontsize=9)
    curves.legend(fontsize=8, loc="center right")
    figure.suptitle("Too many updates of G for each update of D: G maps all z to few x")
    save_chart(figure, file)


def _draw_frozen(file: Path, seen: Seen, modes: np.ndarray, belief: np.ndarray) -> None:
    figure, (curve, *panels) = chart(1, 5, size=(16, 3.5), width_ratios=[1.45, 1, 1, 1, 1])
    _plot(curve, seen, "tab:blue")
    curve.set_xlabel("updates of G since D was frozen")
    curve.set_title("each seed, and their mean (bold)", fontsize=9)
    wide = 2 * EXTENT
    for axes, index in zip(panels, (0, 2, 5, 10), strict=True):
        index = min(index, len(seen["step"]) - 1)
        x = seen["x"][index]
        shown = axes.imshow(belief, origin="lower", extent=(-wide, wide, -wide, wide), cmap="Blues")
        _scatter(axes, x, modes, wide)
        outside = np.mean(np.abs(x).max(axis=1) > wide)
        axes.set_title(f"after {seen['step'][index]} updates, {outside:.0%} outside", fontsize=9)
    figure.colorbar(shown, ax=panels, label="frozen D", shrink=0.8)
    figure.suptitle("G against a frozen D: all samples move to where D is highest (seed 0)")
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
