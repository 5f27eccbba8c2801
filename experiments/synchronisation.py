"""D must keep step with G: what many updates of G on a stale D do (Goodfellow et al. 2014).

"G must not be trained too much without updating D, in order to avoid 'the Helvetica scenario' in
which G collapses too many values of z to the same value of x" (section 6). Eight Gaussians on a
ring show it twice: training from scratch with 1, 5, 25 updates of G for each one of D; and a GAN in
the middle of its training whose D is frozen while G goes on. Writes to --workdir: training.png,
frozen.png, summary.json and, with the checkpoints, trainings/. The same command resumes a run that
was stopped.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    penalties,
    run,
    sample,
)
from gan_jax.data import synthetic
from gan_jax.errors import UserError
from gan_jax.metrics.modes import Modes, mode_coverage
from gan_jax.models.mlp import mlp
from gan_jax.parallel import Step
from gan_jax.run import Look, RunFolder, cli, plots
from gan_jax.run.folder import Record
from gan_jax.run.plots import chart, save_chart
from gan_jax.types import Array, Metrics, StepFn


@dataclasses.dataclass(frozen=True)
class Config:
    """The game, and how far out of step to play it."""

    workdir: Path = Path("runs/synchronisation")
    """Where the pictures and the figures go."""
    generator_steps: tuple[int, ...] = (1, 5, 25)
    """Updates of G for each one of D, one training each; 1 is the balanced one."""
    num_cycles: int = 1500
    """Updates of D in each training."""
    freeze_after: int = 300
    """Updates of D, with one of G for each, before D is frozen."""
    frozen_steps: int = 500
    """Updates of G on the frozen D."""
    seeds: int = 5
    """Trainings of each kind, side by side in one program."""
    batch_size: int = 128
    """Real samples in a batch, and as many fake ones."""
    width: int = 64
    """Units of each of the two hidden layers of both networks."""
    learning_rate: float = 1e-3
    """Adam's, of both players."""
    r1: float = 0.1
    """Weight gamma of R1, gamma/2 |grad D|^2: without it the balanced training turns in circles."""


RADIUS, SCALE, LATENT, NUM_SAMPLES = 1.0, 0.05, 2, 2500
"""Of the ring (standard deviation SCALE), of the noise, and of the sample modes are counted in."""


def build(config: Config) -> tuple[GAN, Callable[[Array], TrainState], StepFn, StepFn]:
    """The GAN, its initial state by key, and the steps of D and of G."""
    gan = mlp((2,), latent=LATENT, width=config.width, bounded=False)
    tx = optax.adam(config.learning_rate, b1=0.5)
    weighted = [(penalties.r1, config.r1 / 2)] if config.r1 else []
    loss = losses.non_saturating

    def start(key: Array) -> TrainState:
        return init(gan, tx, tx, key, Batch(jnp.zeros((config.batch_size, 2))))

    d_step = make_discriminator_step(gan, loss, tx, penalties=weighted)
    return gan, start, d_step, make_generator_step(gan, loss, tx)


def make_cycle(d_step: StepFn, g_step: StepFn, num: int) -> StepFn:
    """One update of D, then `num` of G, all of them on that one D."""

    def cycle(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = d_step(state, batch)
        state = jax.lax.fori_loop(0, num, lambda _, s: g_step(s, batch)[0], state)
        return state, metrics

    return cycle


def check(config: Config) -> None:
    """Raises `UserError` for values that no run could use."""
    counts = ("num_cycles", "freeze_after", "frozen_steps", "seeds", "batch_size", "width")
    cli.check_at_least(config, **dict.fromkeys(counts, 1), r1=0)
    cli.check_above_zero(config, "learning_rate")
    if not config.generator_steps or min(config.generator_steps) < 1:
        raise UserError(f"--generator-steps must all be at least 1, got {config.generator_steps}")


def main(config: Config) -> Record:
    """Trains every kind, all seeds at once, and counts modes."""
    check(config)

    def work(folder: RunFolder) -> Record:
        ring = synthetic.ring(8, RADIUS, SCALE)
        gan, start, d_step, g_step = build(config)
        keys = jax.vmap(jax.random.key)(jnp.arange(config.seeds))

        def cycles(num: int) -> Step:
            return synthetic.feed(make_cycle(d_step, g_step, num), ring, (config.batch_size,))

        def alone(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            return g_step(state, Batch(jnp.zeros((config.batch_size, 2))))  # it reads the size

        def see(states: TrainState) -> dict[str, Array]:
            """Samples of the first seed [NUM_SAMPLES, 2], and the modes of all seeds."""
            key = jax.random.key(config.seeds)  # no training's own
            x = jax.vmap(lambda s: sample(gan, s, key, NUM_SAMPLES, ema=False))(states)
            found = jax.vmap(lambda x: mode_coverage(x, jnp.asarray(ring.modes), SCALE))(x)
            return {"x": x[0], **found._asdict()}

        def train(
            name: str, step: Step, states: TrainState, marks: np.ndarray
        ) -> tuple[TrainState, list[Seen]]:
            part = folder.part(f"trainings/{name}")
            states = run.train(
                step,
                states,
                folder=part,
                num_steps=int(marks[-1]),
                layout="ensemble",
                looks=[Look(marks.tolist(), see, part.keep)],
                words=plots.in_short,
            )
            return states, [(found.pop("x"), Modes(**found)) for _, found in part.kept()]

        def first() -> TrainState:
            return jax.vmap(start)(keys)

        marks, frozen_marks = _marks(config.num_cycles, 30), _marks(config.frozen_steps, 50)
        trainings = {
            num: train(f"generator_steps_{num}", cycles(num), first(), marks)[1]
            for num in config.generator_steps
        }
        states, _ = train("balanced", cycles(1), first(), np.array([config.freeze_after]))
        states, frozen = train("frozen", alone, states, frozen_marks)

        axis = jnp.linspace(-2 * EXTENT, 2 * EXTENT, 161)
        points = jnp.stack([grid.ravel() for grid in jnp.meshgrid(axis, axis)], axis=1)
        player = jax.tree.map(lambda leaf: leaf[0], states.discriminator)
        logits, _ = gan.discriminator.apply(player.params, player.model_state, points, train=False)
        belief = np.asarray(jax.nn.sigmoid(logits)).reshape(len(axis), -1)

        _draw_training(folder.path / "training.png", marks, trainings, ring.modes)
        _draw_frozen(folder.path / "frozen.png", frozen_marks, frozen, ring.modes, belief)
        return {
            "protocol": f"ring of 8 modes, radius {RADIUS}, standard deviation {SCALE}; "
            f"{NUM_SAMPLES} samples a figure; one entry for each seed from 0 on",
            "training": {str(num): _figures(past[-1]) for num, past in trainings.items()},
            "frozen": {
                "before": _figures(frozen[0]),
                "after": _figures(frozen[-1]),
            },
            "pictures": ["training.png", "frozen.png"],
        }

    return cli.record("synchronisation", config, work)


EXTENT = 1.6
"""Half the width of a picture of the ring; where samples run away, twice as much is shown."""

Seen = tuple[np.ndarray, Modes]
"""Samples of the first seed [N, 2], and the modes [seeds]."""


def _marks(total: int, most: int) -> np.ndarray:
    """From 0 to `total` in at most `most` steps."""
    return np.unique(np.linspace(0, total, most + 1).round().astype(int))


def _effective(modes: Modes) -> np.ndarray:
    """exp(entropy of the histogram of nearest modes): 8 if all are equal, 1 if there is one."""
    return 8 * np.exp(-np.asarray(modes.reverse_kl))


def _figures(seen: Seen) -> Record:
    modes = seen[1]
    return {
        "modes_captured": np.asarray(modes.captured).tolist(),
        "effective_modes": _effective(modes).round(3).tolist(),
        "high_quality": np.asarray(modes.high_quality).round(4).tolist(),
    }


def _scatter(axes: Any, x: np.ndarray, modes: np.ndarray, extent: float = EXTENT) -> None:
    axes.scatter(*x[:1000].T, s=3, color="tab:red", lw=0, label="samples of G")
    axes.scatter(*modes.T, s=90, facecolors="none", edgecolors="black", lw=0.8, label="modes")
    axes.set(xlim=(-extent, extent), ylim=(-extent, extent), aspect="equal", xticks=[], yticks=[])


def _draw_training(
    file: Path, marks: np.ndarray, trainings: dict[int, list[Seen]], modes: np.ndarray
) -> None:
    figure, panels = chart(
        1,
        1 + len(trainings),
        size=(4.2 + 2.9 * len(trainings), 3.5),
        width_ratios=[1.45] + [1] * len(trainings),
    )
    for number, (num, past) in enumerate(trainings.items()):
        effective = np.array([_effective(seen[1]) for seen in past])
        panels[0].plot(marks, effective, color=f"C{number}", lw=0.7, alpha=0.5)
        label = f"{num} of G for each of D"
        panels[0].plot(marks, effective.mean(axis=1), color=f"C{number}", lw=2.2, label=label)
        x, found = past[-1]
        _scatter(panels[number + 1], x, modes)
        captured = ", ".join(map(str, np.asarray(found.captured)))
        panels[number + 1].set_title(f"{label}\nmodes captured: {captured}", fontsize=9)
    panels[0].set(xlabel="updates of D", ylabel="effective modes, of 8", ylim=(0.5, 8.3))
    panels[0].set_title("mean over seeds (bold), and each", fontsize=9)
    panels[0].grid(alpha=0.3)
    panels[0].legend(fontsize=8, loc="center right")
    figure.suptitle("Too many updates of G on each D: all z go to few x")
    save_chart(figure, file)


def _draw_frozen(
    file: Path, marks: np.ndarray, past: list[Seen], modes: np.ndarray, belief: np.ndarray
) -> None:
    figure, panels = chart(1, 5, size=(16, 3.5), width_ratios=[1.45, 1, 1, 1, 1])
    effective = np.array([_effective(seen[1]) for seen in past])
    panels[0].plot(marks, effective, color="tab:blue", lw=0.7, alpha=0.5)
    panels[0].plot(marks, effective.mean(axis=1), color="tab:blue", lw=2.2)
    panels[0].set(xlabel="updates of G since D was frozen", ylabel="effective modes, of 8")
    panels[0].set(ylim=(0.5, 8.3), title="mean over seeds (bold), and each")
    panels[0].grid(alpha=0.3)
    wide = 2 * EXTENT
    for axes, index in zip(panels[1:], (0, 2, 5, 10), strict=True):
        index = min(index, len(marks) - 1)
        x = past[index][0]
        shown = axes.imshow(belief, origin="lower", extent=(-wide, wide, -wide, wide), cmap="Blues")
        _scatter(axes, x, modes, wide)
        outside = np.mean(np.abs(x).max(axis=1) > wide)
        axes.set_title(f"after {marks[index]} of G, {outside:.0%} outside", fontsize=9)
    figure.colorbar(shown, ax=panels[1:].tolist(), label="D, frozen", shrink=0.8)
    figure.suptitle("G against a frozen D: all of it runs to where D is highest (seed 0)")
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
