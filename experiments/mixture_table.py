"""Mode coverage of many ways to train a GAN, beside the tables of VEEGAN and PacGAN.

The data and the count of samples of Srivastava et al. 2017, the ring and the grid; networks of one
size for all, several seeds each. Writes to --workdir: table.md, a picture of the first seed of each
way for each distribution, and summary.json with the figures of every seed. Each way is trained in a
folder of its own in ways/: the same command resumes where it was stopped.
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import many, mixtures
from experiments.mixtures import Recipe
from gan_jax import parallel, sample
from gan_jax.errors import UserError
from gan_jax.run import NonFinite, RunFolder, cli
from gan_jax.run.files import write_text
from gan_jax.run.folder import Record
from gan_jax.run.plots import plane
from gan_jax.run.tables import markdown


class Way(NamedTuple):
    """One way to train.

    Attributes:
      title: in the table.
      changes: to the recommended recipe.
      times: as many updates as the others.
    """

    title: str
    changes: dict[str, Any]
    times: int = 1


_PLAIN: dict[str, Any] = {"penalty": (), "noise": 0.0}
_R1: dict[str, Any] = {"noise": 0.0, "final_penalty_share": 1.0}

_USUAL: dict[str, Any] = {"generator_slope": 0.2, "latent_scale": 1.0, "b1": 0.5}

WAYS = {
    "usual": Way("GAN, settings as usual", _PLAIN | _USUAL),
    "usual_r1": Way("the same with R1", _R1 | _USUAL),
    "plain": Way("GAN", _PLAIN),
    "noise": Way("instance noise", {"penalty": ()}),
    "unrolled": Way(
        "unrolled, 5 steps, D's rate a tenth",
        _PLAIN | {"unroll": 5, "discriminator_lr": Recipe.discriminator_lr / 10},
    ),
    "pacgan2": Way("PacGAN2", _PLAIN | {"pack": 2}),
    "wgan_gp": Way(
        "WGAN-GP, n_critic 5",
        {
            "loss": "wasserstein",
            "penalty": ("gradient_penalty",),
            "final_penalty_share": 1.0,
            "noise": 0.0,
            "n_critic": 5,
        },
    ),
    "r1": Way("R1", _R1),
    "rpgan": Way("RpGAN + R1 + R2", _R1 | {"loss": "relativistic", "penalty": ("r1", "r2")}),
    "annealed": Way("R1, its weight annealed", {"noise": 0.0}),
    "recommended": Way("R1 annealed, noise", {}),
    "long": Way("R1 annealed, noise, 8x as long", {}, times=8),
}
"""From a game that loses modes, and the one change that finds them, to the one we recommend. From
`plain` on a way differs from that in what its title says and in nothing else, WGAN-GP excepted: the
same networks, optimizer, rates and updates of G. As usual: leaky ReLUs in G, z ~ N(0, I), Adam's b1
at .5."""

PUBLISHED = {
    "ring": {
        "GAN (in VEEGAN)": (1, 99.3, None),
        "Unrolled (in VEEGAN)": (7.6, 35.6, None),
        "VEEGAN": (8, 52.9, None),
        "GAN (in PacGAN)": (6.3, 98.2, 0.45),
        "PacGAN2": (7.9, 95.6, 0.07),
        "PacGAN3": (7.8, 97.7, 0.10),
        "PacGAN4": (7.8, 95.9, 0.07),
    },
    "grid": {
        "GAN (in VEEGAN)": (3.3, 0.5, None),
        "Unrolled (in VEEGAN)": (23.6, 16, None),
        "VEEGAN": (24.6, 40, None),
        "GAN (in PacGAN)": (17.3, 94.8, 0.70),
        "PacGAN2": (23.8, 91.3, 0.13),
        "PacGAN3": (24.6, 94.2, 0.06),
        "PacGAN4": (24.8, 93.6, 0.04),
    },
}
"""Means over their runs: modes captured, high-quality samples in %, reverse KL in nats."""


REPORTED = ("settings", "updates", "gan", "perfect_sampler", "diverged")
"""The entries of a cell's summary that the table's summary holds too."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Which rows, how often, for how long."""

    workdir: Path = Path("runs/mixture_table")
    """Where the table, the pictures and the figures go."""
    data: tuple[str, ...] = tuple(PUBLISHED)
    """Distributions."""
    ways: tuple[str, ...] = tuple(WAYS)
    """Rows."""
    num_steps: int = Recipe.num_steps
    """G's updates; in the row `long` eight times as many."""
    batch_size: int = Recipe.batch_size
    """Samples that D judges in an update, packs counted once."""
    seeds: int = Recipe.seeds
    """GANs for each row."""
    seed: int = 0
    """Of the first; the others follow."""
    num_samples: int = Recipe.num_samples
    """Samples that the modes are counted in."""


def check(config: Config) -> None:
    """Raises `UserError` for values that no run could use."""
    for name, known in (("data", PUBLISHED), ("ways", WAYS)):
        if unknown := [value for value in getattr(config, name) if value not in known]:
            raise UserError(f"--{name} must be some of {', '.join(known)}, got {unknown[0]}")
        if not getattr(config, name):
            raise UserError(f"--{name} must name at least one of {', '.join(known)}")
    for data in config.data:
        for way in config.ways:
            mixtures.check(recipe(config, data, way))


def recipe(config: Config, data: str, way: str) -> Recipe:
    """The settings of one cell of the table."""
    shared = ("batch_size", "seeds", "seed", "num_samples")
    settings: dict[str, Any] = {name: getattr(config, name) for name in shared}
    settings |= {"data": data, "num_steps": config.num_steps * WAYS[way].times}
    return Recipe(**settings, **WAYS[way].changes)


def main(config: Config) -> Record:
    """Trains every way on every distribution; draws and prints the table."""
    check(config)
    parallel.use_every_core()

    def work(folder: RunFolder) -> Record:
        figures: dict[str, Record] = {}
        for data in config.data:
            figures[data] = {}
            for way in config.ways:
                print(f"{data}: {WAYS[way].title}", flush=True)
                place = folder.path / "ways" / f"{data}_{way}"
                figures[data][way] = _one(recipe(config, data, way), place)
                write_text(folder.path / "table.md", text := table(config, figures))
            _draw(figures[data], folder.path / f"{data}.png")
        print(f"\n{text}")
        return {
            "figures": {
                data: {
                    way: {name: found[name] for name in REPORTED if name in found}
                    for way, found in ways.items()
                }
                for data, ways in figures.items()
            },
            "pictures": [f"{data}.png" for data in config.data],
        }

    return cli.record("mixture_table", config, work)


def _one(settings: Recipe, path: Path) -> Record:
    """The figures of a cell, and what to draw of its first seed: from its folder, or trained."""
    folder = RunFolder(path, {"recipe": dataclasses.asdict(settings)})
    if (done := folder.summary()) and not _is_whole(done):
        print(f"{path / 'summary.json'} is damaged: it is made again", flush=True)
        (path / "summary.json").unlink()
    return folder.once(partial(_train, settings, folder))


def _train(settings: Recipe, folder: RunFolder) -> Record:
    distribution, unit = mixtures.data(settings)
    game = mixtures.build(settings, distribution)
    real = distribution.sample(jax.random.key(1), 1000)
    found: Record = {
        "settings": json.loads(json.dumps(dataclasses.asdict(settings))),
        "updates": many.updates(settings),
        "real": (unit * np.asarray(real)).tolist(),
    }
    try:
        states = many.train(settings, game, folder)
    except NonFinite as error:
        return found | {"diverged": str(error)}
    first = jax.tree.map(lambda leaf: leaf[0], states)
    made = sample(game.gan, first, jax.random.key(0), 1000)
    found["made"] = (unit * np.asarray(made)).tolist()
    return found | mixtures.figures_of(settings, game, distribution, states)


def _is_whole(found: Record) -> bool:
    """Whether the summary of a cell has what the table takes from it."""
    try:
        _updates(found)
        np.array(found["real"], float)
        if "diverged" not in found:
            np.array(found["made"], float)
            _cells(found["gan"])
            _cells(found["perfect_sampler"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return True


def _draw(ways: Record, file: Path) -> None:
    """The first seed of each way."""
    views = []
    for way, found in ways.items():
        if "made" in found:
            captured, quality = (found["gan"][n][0] for n in ("captured", "high_quality"))
            title = f"{WAYS[way].title}\n{captured:.3g} modes, HQ {100 * quality:.1f} %"
            views.append(plane.View(title, np.array(found["made"])))
    real = np.array(next(iter(ways.values()))["real"])
    reach = 1.15 * float(np.abs(real).max())
    plane.side_by_side(views, real, file, reach=reach)


def table(config: Config, figures: dict[str, Record]) -> str:
    """Markdown: ours over the seeds, the published ones, and a perfect sampler."""
    text = [
        f"Ours in bold: mean (lowest to highest) of {config.seeds} seeds, of each seed's "
        f"{Recipe.draws} draws of {config.num_samples} samples the mean; batch "
        f"{config.batch_size}. Published: 2,500 samples, other networks and budgets. HQ: within "
        "three standard deviations of a mode. Reverse KL: of the modes' histogram, from the "
        "uniform one. Width: of the modes, in true ones; samples narrower than the modes are may "
        "have more HQ than perfect ones."
    ]
    for data, ways in figures.items():
        rows = [
            (f"**{WAYS[way].title}**", *_cells(found.get("gan")), *_updates(found))
            for way, found in ways.items()
        ]
        rows += [
            (f"{name}, published", *(("" if x is None else f"{x:g}") for x in values), "", "", "")
            for name, values in PUBLISHED[data].items()
        ]
        perfect = [found["perfect_sampler"] for found in ways.values() if "gan" in found]
        rows += [("a perfect sampler", *_cells(each), "", "") for each in perfect[:1]]
        header = ("", "modes", "HQ %", "reverse KL, nats", "width", "updates of D", "of G")
        text.append(f"## {data}\n\n{markdown(header, rows)}")
    return "\n\n".join(text) + "\n"


def _cells(figures: dict[str, list[float]] | None) -> list[str]:
    """Mean (lowest to highest) over the seeds."""
    if figures is None:
        return ["diverged", "", "", ""]
    return [
        f"{np.mean(x):.{digits}f} ({np.min(x):.{digits}f} to {np.max(x):.{digits}f})"
        for x, digits in (
            (np.array(figures["captured"]), 1),
            (100 * np.array(figures["high_quality"]), 1),
            (np.array(figures["reverse_kl"]), 4),
            (np.array(figures["width"]), 2),
        )
    ]


def _updates(found: Record) -> list[str]:
    return [f"{found['updates'][player]:,}" for player in ("discriminator", "generator")]


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
