"""A GAN on a distribution in the plane with a known density, many seeds in one program.

The experiment measures which modes are found, how sharp they are and whether they are drawn equally
often, as VEEGAN (Srivastava et al. 2017) and PacGAN (Lin et al. 2018) do, beside the figures of a
perfect sampler. At the end it writes training.gif (the first seed's samples over D's level sets),
seeds.png and summary.json to --workdir. The same command resumes a run that was stopped.
"""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import numpy as np

from experiments import cli, many, mixtures
from experiments.mixtures import Recipe
from gan_jax import TrainState, parallel, sample
from gan_jax.run import Look, RunFolder
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
"""Half the width of the pictures."""


@dataclasses.dataclass(frozen=True)
class Config(Recipe):
    """The recipe, the folder and the animation."""

    workdir: Path = Path("runs/mixture_2d")
    """Folder of the run."""
    frames: int = 40
    """Frames of the animation, besides the one before training."""


def check(config: Config) -> None:
    """Raises `UserError` for values that no run could use."""
    mixtures.check(config)
    cli.check_at_least(config, frames=2)
    many.check_multiple(config.num_steps, config.frames, "--frames")


def main(config: Config) -> Record:
    """Trains, measures and draws; returns the summary."""
    check(config)
    parallel.use_every_core()
    return cli.record("mixture_2d", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    distribution, unit = mixtures.data(config)
    game = mixtures.build(config, distribution)
    reach = REACH[config.data]

    def see(states: TrainState) -> dict[str, Array]:
        """Returns the arguments of `plane.View`: a D of packs cannot judge single samples."""
        state = jax.tree.map(lambda leaf: leaf[0], states)
        seen = {"made": unit * sample(game.gan, state, jax.random.key(0), 1000)}
        if config.pack == 1:
            seen["judged"] = many.judged(game.gan, state, reach, 80, unit=unit)
        return seen

    every = config.num_steps // config.frames
    states = many.train(config, game, folder, [Look(every, see, folder.keep)])
    figures = mixtures.figures_of(config, game, distribution, states)
    print(many.table(figures))
    real = unit * np.asarray(distribution.sample(jax.random.key(1), 1000))
    views = [
        plane.View(f"{config.data}, seed {config.seed}, after {step} updates of G", **seen)
        for step, seen in folder.kept()
    ]
    plane.training(views, real, folder.path / "training.gif", reach=reach)
    draw = jax.vmap(lambda state: sample(game.gan, state, jax.random.key(0), config.num_samples))
    shown = [
        plane.View(
            f"seed {config.seed + number}: {mixtures.title(figures['gan'], number)}",
            unit * np.asarray(made),
        )
        for number, made in enumerate(jax.jit(draw)(states))
    ]
    plane.side_by_side(shown, real, folder.path / "seeds.png", reach=reach)
    return {
        "updates": many.updates(config),
        "num_modes": len(distribution.modes),
        "figures": figures,
        "pictures": ["training.gif", "seeds.png"],
    }


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
