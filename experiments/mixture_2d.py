"""A GAN on a distribution in the plane whose density is known, many seeds in one program.

Which modes are found, how sharp they are and whether they are equally often drawn, as VEEGAN
(Srivastava et al. 2017) and PacGAN (Lin et al. 2018) count it, with a perfect sampler's figures
beside them. Writes to --workdir: training.gif (samples over D's level sets, first seed), seeds.png
and summary.json, when all is done. The same command resumes a run that was stopped.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments import many, mixtures
from experiments.mixtures import Recipe
from gan_jax import TrainState, parallel, sample
from gan_jax.run import Look, RunFolder, cli
from gan_jax.run.folder import Record
from gan_jax.run.plots import plane
from gan_jax.types import Array

REACH = {
    "ring": 1.5,
    "grid": 5.0,
    "cascade": 1.6,
    "swiss_roll": 1.3,
    "two_moons": 2.4,
    "spiral": 1.3,
}
"""How far from 0 the pictures go."""


@dataclasses.dataclass(frozen=True)
class Config(Recipe):
    """What is learned, by which game, for how long, how often, and where it goes."""

    workdir: Path = Path("runs/mixture_2d")
    """Where the pictures and the figures go."""
    frames: int = 40
    """Moments in the animation after the first, which is before training."""


def check(config: Config) -> None:
    """Raises `UserError` for values that no run could use."""
    mixtures.check(config)
    cli.check_at_least(config, frames=2)
    many.check_chunks(config, config.frames, "--frames")


def main(config: Config) -> Record:
    """Trains, measures, draws."""
    check(config)
    parallel.use_every_core()
    return cli.record("mixture_2d", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    distribution, unit = mixtures.data(config)
    game = mixtures.build(config, distribution)

    def see(states: TrainState) -> dict[str, Array]:
        return _look(config, game, unit, jax.tree.map(lambda leaf: leaf[0], states))

    every = config.num_steps // config.frames
    states = many.train(config, game, folder, [Look(every, see, folder.keep)])
    figures = mixtures.figures_of(config, game, distribution, states)
    print(many.table(figures))
    real = unit * np.asarray(distribution.sample(jax.random.key(1), 1000))
    reach, path = REACH[config.data], folder.path
    views = [
        plane.View(f"{config.data}, seed {config.seed}, after {step} updates of G", **seen)
        for step, seen in folder.kept()
    ]
    plane.training(views, real, path / "training.gif", reach=reach)
    draw = jax.vmap(lambda state: sample(game.gan, state, jax.random.key(0), config.num_samples))
    shown = [
        plane.View(_title(config, figures["gan"], number), unit * np.asarray(made))
        for number, made in enumerate(jax.jit(draw)(states))
    ]
    plane.side_by_side(shown, real, path / "seeds.png", reach=reach)
    return {
        "updates": many.updates(config),
        "num_modes": len(distribution.modes),
        "figures": figures,
        "pictures": ["training.gif", "seeds.png"],
    }


def _look(config: Config, game: many.Game, unit: float, state: TrainState) -> dict[str, Array]:
    """What `plane.View` shows: 1,000 samples; and D(x) over the plane, unless it judges packs."""
    made = unit * sample(game.gan, state, jax.random.key(0), 1000)
    if config.pack > 1:
        return {"made": made}
    axis = jnp.linspace(-REACH[config.data], REACH[config.data], 80)
    x = jnp.stack(jnp.meshgrid(axis, axis), axis=2)
    player = state.discriminator
    logits, _ = game.gan.discriminator.apply(
        player.params, player.model_state, x.reshape(-1, 2) / unit, train=False
    )
    return {"made": made, "judged": jax.nn.sigmoid(logits).reshape(x.shape[:2])}


def _title(config: Config, figures: dict[str, list[float]], number: int) -> str:
    if "captured" not in figures:
        return f"seed {config.seed + number}: energy p {figures['p_value'][number]:.2f}"
    captured, quality = figures["captured"][number], 100 * figures["high_quality"][number]
    return f"seed {config.seed + number}: {captured:.3g} modes, HQ {quality:.1f} %"


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
