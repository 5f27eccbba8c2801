"""Mode coverage of twelve methods to train a GAN, compared with published tables.

The published tables are those of VEEGAN (Srivastava et al. 2017) and PacGAN (Lin et al. 2018). The
distributions (ring and grid) and the number of samples are those of VEEGAN. Each row of the table
is a method. All methods use networks of the same size and several seeds. The experiment writes
table.md, a picture for each distribution and summary.json to --workdir. A picture shows samples of
the first seed of each method. summary.json has the metrics of every seed. Each training (one method
on one distribution) has its own folder in ways/. The same command resumes a run that was stopped.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments import many, mixture_2d
from experiments.mixture_2d import Recipe
from gan_jax import parallel, sample
from gan_jax.errors import UserError
from gan_jax.run import NonFinite, RunFolder, cli
from gan_jax.run.files import write_text
from gan_jax.run.folder import Record
from gan_jax.run.plots import plane
from gan_jax.run.tables import markdown, spread


class Way(NamedTuple):
    """A method of training: one row of the table.

    Attributes:
      title: the method's name in the table.
      changes: the settings that differ from the recommended recipe.
      times: the factor by which --num-steps is multiplied.
    """

    title: str
    changes: dict[str, Any]
    times: int = 1


_PLAIN: dict[str, Any] = {"penalty": (), "noise": 0.0}
_R1: dict[str, Any] = {"noise": 0.0, "final_penalty_share": 1.0}
_USUAL: dict[str, Any] = {"generator_slope": 0.2, "latent_scale": 1.0, "b1": 0.5}

COMPARED = {
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
        _R1 | {"loss": "wasserstein", "penalty": ("gradient_penalty",), "n_critic": 5},
    ),
    "r1": Way("R1", _R1),
    "rpgan": Way("RpGAN + R1 + R2", _R1 | {"loss": "relativistic", "penalty": ("r1", "r2")}),
    "annealed": Way("R1, its weight annealed", {"noise": 0.0}),
    "recommended": Way("R1 annealed, noise", {}),
    "long": Way("R1 annealed, noise, 8x as long", {}, times=8),
}
"""The methods of the table, from one that loses modes to the recommended recipe.

Each method after `plain` is `plain` with the changes in its title. The "usual" settings are leaky
ReLUs in G, z ~ N(0, I) and 0.5 for Adam's b1.
"""

_EXACT: dict[str, Any] = {
    "noise_share": 0.5,
    "signs": 8,
    "fourier": 64,
    "discriminator_width": 128,
    "discriminator_depth": 2,
    "lr_decay": "exponential",
    "final_lr_share": 0.05,
    "generator_final_lr_share": 1e-4,
    "ema_decay": 0.998,
}
EXACT = {
    "exact": Way("exact", _EXACT, times=2),
    "exact_no_signs": Way("without signs in z", _EXACT | {"signs": 0}, times=2),
    "exact_no_waves": Way("without Fourier features", _EXACT | {"fourier": 0}, times=2),
    "exact_one_rate": Way(
        "with one rate for D and G", _EXACT | {"generator_final_lr_share": None}, times=2
    ),
    "exact_long_average": Way("with a long average", _EXACT | {"ema_decay": 0.9998}, times=2),
    "exact_short": Way("half as long", _EXACT),
}
"""The method `exact`, which brings the width of the modes close to the true one, and variants with
one change each. They take far longer, so only `--ways` chooses them."""

WAYS = COMPARED | EXACT
"""All methods, by the names that `--ways` takes."""

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
"""Published means of three metrics: the number of modes found, the share of high-quality samples in
%, and the reverse KL in nats."""

COLUMNS = ("modes", "HQ %", "reverse KL, nats", "width", "of one mode", "sliced Wasserstein")
"""The columns of the metrics."""

REPORTED = ("settings", "updates", "gan", "perfect_sampler", "diverged")
"""Entries that are copied from the summary of each training to the summary of the table."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the table and of the trainings."""

    workdir: Path = Path("runs/mixture_table")
    """Folder of the run."""
    data: tuple[str, ...] = tuple(PUBLISHED)
    """Distributions to learn."""
    ways: tuple[str, ...] = tuple(COMPARED)
    """Methods to train, one for each row of the table. The default leaves out `exact` and its
    variations."""
    num_steps: int = Recipe.num_steps
    """Updates of G. The method `long` makes eight times as many, and `exact` twice as many."""
    batch_size: int = Recipe.batch_size
    """Real samples (or packs) in an update of D. D also gets the same number of fakes."""
    seeds: int = Recipe.seeds
    """Number of GANs for each method and distribution."""
    seed: int = 0
    """Seed of the first GAN. The other GANs use the seeds that follow."""
    num_samples: int = Recipe.num_samples
    """Number of samples in which the modes are counted."""


def check(config: Config) -> None:
    """Raises `UserError` for an invalid setting."""
    for name, known in (("data", PUBLISHED), ("ways", WAYS)):
        cli.check_names(config, name, known)
        if not getattr(config, name):
            raise UserError(f"--{name} must name at least one of {', '.join(known)}")
    for data in config.data:
        for way in config.ways:
            mixture_2d.check_recipe(recipe(config, data, way))


def recipe(config: Config, data: str, way: str) -> Recipe:
    """Returns the settings for training one method on one distribution."""
    shared = ("batch_size", "seeds", "seed", "num_samples")
    settings: dict[str, Any] = {name: getattr(config, name) for name in shared}
    chosen = WAYS[way]
    settings |= {"data": data, "num_steps": config.num_steps * chosen.times}
    return Recipe(**settings, **chosen.changes)


def main(config: Config) -> Record:
    """Trains every method on every distribution, draws pictures and prints the table."""
    check(config)
    parallel.use_every_core()
    return cli.record("mixture_table", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    metrics: dict[str, Record] = {}
    for data in config.data:
        metrics[data] = {}
        for way in config.ways:
            print(f"{data}: {WAYS[way].title}", flush=True)
            place = folder.path / "ways" / f"{data}_{way}"
            metrics[data][way] = _one(recipe(config, data, way), place)
            write_text(folder.path / "table.md", text := table(config, metrics))
        _draw(metrics[data], folder.path / f"{data}.png")
    print(f"\n{text}")
    return {
        "figures": {
            data: {
                way: {name: found[name] for name in REPORTED if name in found}
                for way, found in ways.items()
            }
            for data, ways in metrics.items()
        },
        "pictures": [f"{data}.png" for data in config.data],
    }


def _one(settings: Recipe, path: Path) -> Record:
    """Returns the metrics and samples of one training. Trains only if its folder has no result."""
    folder = RunFolder(path, {"recipe": dataclasses.asdict(settings)})
    if (done := folder.summary()) and not _is_whole(done):
        print(f"{path / 'summary.json'} is damaged and will be made again", flush=True)
        (path / "summary.json").unlink()
    return folder.once(partial(_train, settings, folder))


def _train(settings: Recipe, folder: RunFolder) -> Record:
    distribution, unit = mixture_2d.data(settings)
    game = mixture_2d.build(settings, distribution)
    real = distribution.sample(jax.random.key(1), 1000)
    found: Record = {
        "settings": dataclasses.asdict(settings),
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
    return found | mixture_2d.metrics_of(settings, game, distribution, states)


def _is_whole(found: Record) -> bool:
    """Returns whether a training's summary has all entries for the table and the pictures."""
    try:
        _row("", found)
        np.array(found["real"], float)
        if "diverged" not in found:
            np.array(found["made"], float)
            _cells(found["perfect_sampler"])
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return True


def _draw(ways: Record, file: Path) -> None:
    """Plots samples of the first seed of each method."""
    views = []
    for way, found in ways.items():
        if "made" in found:
            title = f"{WAYS[way].title}\n{mixture_2d.title(found['gan'], 0)}"
            views.append(plane.View(title, np.array(found["made"])))
    real = np.array(next(iter(ways.values()))["real"])
    plane.side_by_side(views, real, file, reach=1.15 * float(np.abs(real).max()))


def table(config: Config, metrics: dict[str, Record]) -> str:
    """Returns a Markdown table of our metrics, published metrics and those of a perfect sampler."""
    text = [
        f"Rows in bold are ours: mean (lowest to highest) over {config.seeds} seeds. The value of "
        f"a seed is the mean over {Recipe.draws} draws of {config.num_samples} samples. Batch size "
        f"{config.batch_size}. The published rows have 2,500 samples, other networks and other "
        "budgets. HQ: samples within three standard deviations of a mode. Reverse KL: of the "
        "histogram of the modes from the uniform one. Width: standard deviation of the modes, as a "
        "fraction of the true one; samples that are too narrow may have more HQ than perfect ones. "
        "Of one mode: the narrowest and the widest mode of any seed. Sliced Wasserstein: the "
        "distance to as many real samples, in standard deviations of the data."
    ]
    for data, ways in metrics.items():
        rows = [_row(WAYS[way].title, found) for way, found in ways.items()]
        rows += [
            [f"{name}, published", *("" if x is None else f"{x:g}" for x in values), *[""] * 5]
            for name, values in PUBLISHED[data].items()
        ]
        perfect = [found["perfect_sampler"] for found in ways.values() if "gan" in found]
        rows += [["a perfect sampler", *_cells(each), "", ""] for each in perfect[:1]]
        header = ("", *COLUMNS, "updates of D", "of G")
        text.append(f"## {data}\n\n{markdown(header, rows)}")
    return "\n\n".join(text) + "\n"


def _row(title: str, found: Record) -> list[str]:
    cells = (
        ["diverged", *[""] * (len(COLUMNS) - 1)] if "diverged" in found else _cells(found["gan"])
    )
    updates = (f"{found['updates'][player]:,}" for player in ("discriminator", "generator"))
    return [f"**{title}**", *cells, *updates]


def _cells(metrics: many.PerSeed) -> list[str]:
    return [
        spread(metrics["captured"], ".1f"),
        spread(100 * np.array(metrics["high_quality"]), ".1f"),
        spread(metrics["reverse_kl"], ".4f"),
        spread(metrics["width"], ".2f"),
        f"{min(metrics['narrowest']):.2f} to {max(metrics['widest']):.2f}",
        spread(metrics["sliced_wasserstein"], ".4f"),
    ]


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
