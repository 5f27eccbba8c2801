"""Parts of the experiments that train several ways on the same images and compare the samples."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from gan_jax.errors import UserError
from gan_jax.metrics.extractor import Extractor
from gan_jax.metrics.frechet import frechet_distance
from gan_jax.metrics.neighbours import memorisation
from gan_jax.run import NonFinite, RunFolder, cli, datasets
from gan_jax.run.commands import sample, train
from gan_jax.run.files import write_text
from gan_jax.run.folder import Record
from gan_jax.run.images import describe
from gan_jax.run.plots import grid, save_image
from gan_jax.run.tables import markdown, spread

LEAST = 1000
"""Least number of samples. With fewer, a distance on 64 features says little."""
_COMPARED = 20_000
"""Training images among which the nearest one is looked for, at most."""
SHOWN = 40
"""Samples of each way in the picture."""
_CAPTION = 28
"""Height of the line with a title in the picture, in pixels."""
USUAL: dict[str, Any] = {
    "conditional": "none",
    "r1": 0.0,
    "generator_lr": 2e-4,
    "discriminator_lr": 2e-4,
    "b1": 0.5,
    "b2": 0.999,
}
"""Settings of a GAN without classes or penalty, with the optimizer of Radford et al. 2016."""


class Way(NamedTuple):
    """A way of training: one row of the table.

    Attributes:
      title: its name in the table.
      changes: the settings of `gan-jax train` that differ from those of all ways.
      cost: CPU time of an update of G and its updates of D, as a multiple of that of a way that
        makes `num_steps` updates. All ways thus take equal time.
    """

    title: str
    changes: dict[str, Any]
    cost: float = 1.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of an experiment that compares ways of training."""

    workdir: Path
    """Folder of the run. A row in scores/ is not made again, and a training in ways/ resumes."""
    ways: tuple[str, ...]
    """Ways to train, one for each row of the table."""
    num_steps: int
    """Updates of G for a way with cost 1. The others make as many as take the same time."""
    seeds: int = 3
    """Number of seeds. Each way is trained once with each seed."""
    seed: int = 0
    """Seed of the first training. The others use the seeds that follow."""
    num_samples: int = 10_000
    """Samples that are compared with held-out images."""
    data: datasets.Config = dataclasses.field(default_factory=datasets.Config)
    """The images."""


def check(config: Settings, ways: Mapping[str, Way]) -> None:
    """Raises `UserError` for an invalid setting."""
    cli.check_at_least(config, num_steps=1, seeds=1, num_samples=LEAST)
    cli.check_seed(config)
    cli.check_names(config, "ways", ways)
    if not config.ways:
        raise UserError(f"--ways must name at least one of {', '.join(ways)}")
    for name in config.ways:
        train.check(settings(config, ways[name], config.seed, Path()))


def settings(config: Settings, way: Way, seed: int, workdir: Path) -> train.Config:
    """Returns the settings of one training."""
    steps = max(1, round(config.num_steps / way.cost))
    every = -(-steps // 10)  # ten grids; records of the metrics at the same steps
    cadence = {"log_every": every, "sample_every": every, "checkpoint_every": every}
    cadence |= {"evaluate_every": 0}  # the time is for training
    shared = {"workdir": workdir, "num_steps": steps, "seed": seed, "data": config.data, **cadence}
    return train.Config(**{**shared, **way.changes})


def compare(
    config: Settings,
    ways: Mapping[str, Way],
    held_out: np.ndarray,
    extractor: Extractor,
    folder: RunFolder,
) -> Record:
    """Trains each way with each seed, and compares the samples with held-out images.

    Prints the table after each way and writes it to table.md. Draws samples.png, with a row of
    pictures for each way.

    Returns:
      The results of each way and each seed, for the summary.
    """
    figures: Record = {}
    pictures = list[tuple[str, np.ndarray]]()
    real = datasets.load(config.data)
    target, training = extractor.features(held_out), extractor.features(real.x[:_COMPARED])
    judge = partial(score, target=target, training=training, extractor=extractor)
    figures["real"] = {"title": "real training images", "seeds": []}
    for each in range(config.seeds):  # other images for each seed
        chosen = np.random.default_rng(each).permutation(len(real.x))[: config.num_samples]
        label = None if real.label is None else real.label[chosen]
        found = judge(real.x[chosen], label)
        figures["real"]["seeds"].append(found | {"nearness": None})
    for name in config.ways:
        figures[name] = {"title": ways[name].title, "seeds": []}
        for seed in range(config.seed, config.seed + config.seeds):
            found, shown = row(config, ways[name], f"{name}_{seed}", seed, folder, judge)
            figures[name]["seeds"].append(found)
            if seed == config.seed and shown is not None:
                pictures.append((ways[name].title, shown))
        write_text(folder.path / "table.md", text := table(figures, extractor, len(held_out)))
        print(text, flush=True)
    if pictures:
        save_image(page(pictures), folder.path / "samples.png")
    return {
        "extractor": extractor.name,
        "held_out": len(held_out),
        "num_samples": config.num_samples,
        "data": describe(real),
        "figures": figures,
    }


def row(
    config: Settings,
    way: Way,
    name: str,
    seed: int,
    folder: RunFolder,
    judge: Callable[[np.ndarray, np.ndarray | None], Record],
) -> tuple[Record, np.ndarray | None]:
    """Trains one way with one seed and judges its samples, unless scores/ has the result.

    Args:
      config: the settings of the experiment.
      way: the way of training.
      name: the name of the training, which is that of its folders.
      seed: the seed of the training.
      folder: the folder of the experiment.
      judge: the scores of samples and their classes.

    Returns:
      The scores with the number of updates of G and the CPU seconds of the training, or the entry
      `diverged`; and the first samples, or None. The CPU seconds are None if the training was
      interrupted.
    """
    training = settings(config, way, seed, folder.path / "ways" / name)
    kept = dataclasses.asdict(training) | {"num_samples": config.num_samples}
    del kept["workdir"]
    place = RunFolder(folder.path / "scores" / name, kept)

    def work() -> Record:
        print(f"{way.title}, seed {seed}", flush=True)
        resumed, begun = training.workdir.exists(), time.process_time()
        try:
            train.main(training)
        except NonFinite as error:
            return {"diverged": str(error)}
        seconds = None if resumed else time.process_time() - begun
        x, label = draw(training.workdir, config.num_samples)
        place.keep(training.num_steps, {"x": x[:SHOWN]})
        found = judge(x, label)
        return found | {"updates": training.num_steps, "cpu_seconds": seconds}

    found = place.once(work)
    shown = place.kept()
    return found, shown[0][1]["x"] if shown else None


def page(rows: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """Returns a picture with a title and two lines of samples, uint8 [N, H, W, C], for each row."""
    grids = [grid(x, columns=SHOWN // 2, height=2 * 56) for _, x in rows]
    height = sum(_CAPTION + each.height for each in grids)
    whole = Image.new(grids[0].mode, (grids[0].width, height), "white")
    pen, top = ImageDraw.Draw(whole), 0
    for (title, _), each in zip(rows, grids, strict=True):
        pen.text((4, top + 4), title, "black", font_size=16)
        whole.paste(each, (0, top + _CAPTION))
        top += _CAPTION + each.height
    return whole


def draw(run: Path, num: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns `num` samples of a run, uint8 [num, H, W, C], and their classes [num] or None."""
    restored, drawing = train.restore(run), sample.Config(run, num=num)
    rows = sample.labels(drawing, restored)
    return sample.draw(drawing, restored, rows), None if restored.clustered else rows[0]


def score(
    x: np.ndarray,
    label: np.ndarray | None,
    target: np.ndarray,
    training: np.ndarray,
    extractor: Extractor,
) -> Record:
    """Returns the scores of samples, by name.

    Args:
      x: uint8 [N, H, W, C], the samples.
      label: [N] their classes, or None.
      target: [M, D], the features of held-out images.
      training: [T, D], the features of training images.
      extractor: the network of the features and the probabilities.
    """
    assert extractor.probabilities is not None
    features, found = extractor.features(x), extractor.probabilities(x).argmax(axis=1)
    few = slice(0, 1000)  # enough for a median
    near = memorisation(*map(jnp.asarray, (features[few], training, target[few])))
    return {
        "distance": frechet_distance(features, target),
        "rarest": float(np.bincount(found, minlength=10).min() / len(x)),
        "agreement": None if label is None else float((found == label).mean()),
        "nearness": float(near.ratio),
    }


def table(figures: Record, extractor: Extractor, held_out: int) -> str:
    """Returns a Markdown table of the results."""
    header = (
        "",
        "Fréchet distance",
        "rarest class %",
        "label agreement %",
        "nearness",
        "updates of G",
        "CPU s",
    )
    rows = []
    for found in figures.values():
        done = [seed for seed in found["seeds"] if "diverged" not in seed]
        cells = [found["title"]]
        for name, factor, form in (
            ("distance", 1, ".2f"),
            ("rarest", 100, ".1f"),
            ("agreement", 100, ".1f"),
            ("nearness", 1, ".2f"),
        ):
            values = [factor * seed[name] for seed in done if seed[name] is not None]
            cells.append(spread(values, form) if values else "")
        if len(done) < len(found["seeds"]):
            cells[0] += f" ({len(found['seeds']) - len(done)} diverged)"
        if done and "updates" in done[0]:
            seconds = [seed["cpu_seconds"] for seed in done if seed["cpu_seconds"] is not None]
            cells += [f"{done[0]['updates']:,}", f"{np.mean(seconds):.0f}" if seconds else ""]
        rows.append(cells)
    return (
        f"Mean (lowest to highest) over {len(figures['real']['seeds'])} seeds. Fréchet distance "
        f"to {held_out:,} held-out images on the features of {extractor.name}: not FID. "
        "Nearness: distance of samples to the training images, as a multiple of that of held-out "
        f"images; near 0 for copies. CPU s: of one training.\n\n{markdown(header, rows)}\n"
    )
