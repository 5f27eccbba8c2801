"""Scores generated images against real images.

The images are samples of a run's newest or best checkpoint (--run), or any images (--images). The
scores are printed as a table. These files are written to --out, with a number in their names if
such files exist already:
- evaluation.json: the scores and the whole protocol
- neighbours.png: pairs of a sample (left) and its nearest training image, or with --images its
  nearest reference image. Top: the pairs with the smallest distance. Bottom: the first samples.

Scores can be compared only if extractor, reference and numbers of images are the same. The table
also shows the scores of real images. "+-" is the standard error, estimated from random halves of
the images. The same command gives the same scores.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from numpy.typing import NDArray
from PIL import Image

from gan_jax.errors import UserError
from gan_jax.metrics.extractor import Extractor
from gan_jax.metrics.extractors import EXTRACTORS, made_for, takes
from gan_jax.metrics.neighbours import nearest
from gan_jax.run import cli, datasets, plots
from gan_jax.run.commands import sample, train
from gan_jax.run.datasets.types import Channels
from gan_jax.run.folder import Record, environment, read_config, write_json
from gan_jax.run.progress import over
from gan_jax.run.scoring import reference, scores
from gan_jax.run.scoring.reference import Images
from gan_jax.run.scoring.scores import METRICS, Score, Side, Sides
from gan_jax.run.tables import markdown

_NUM = 10_000
"""Number of samples of a run if --num is not given."""
_PAIRS = 32
"""Samples in the picture, each beside its neighbour."""
_MOST_PIXELS = 4096
"""Largest number of features of --extractor pixels. A covariance of F features has F^2 entries."""
_LEAST_OF_CLASS = 10
"""Smallest number of images per class for which `intra_class` is computed."""
_SHARE_KNOWN = 0.1
"""A reference counts as new if the share of training images in it is smaller than this."""

_METRICS = tyro.conf.arg(
    metavar="NAME",
    help=f"Metrics: {', '.join(METRICS)}. No name: all possible ones, "
    f"except {' and '.join(sorted(METRICS.keys() - set(scores.DEFAULT)))}.",
)


@dataclasses.dataclass(frozen=True)
class Config:
    """The images to score, the reference and the metrics."""

    run: Path | None = None
    """Folder of a run of `gan-jax train`."""
    images: Path | None = None
    """Folder of images, or npz file of `gan-jax sample`."""
    # Real images: held_out or train (of the run), a folder of images or IDX files, an npz or IDX
    # file, or the name of a data set. None: the run's held-out images, or its training images if
    # none are held out.
    reference: str | None = None
    metrics: Annotated[tuple[str, ...], _METRICS] = ()
    num: int | None = None
    """Number of samples. None: 10,000 with --run, all images with --images."""
    reference_num: int = 10_000
    """Largest number of reference images. If there are more, a random subset is used."""
    # Network that gives the features. pixels: no network. None: digits for MNIST, fashion for
    # Fashion-MNIST. Other images have no default: choose inception with --inception-weights for
    # photographs, or pixels for small images.
    extractor: Literal["digits", "fashion", "inception", "pixels"] | None = None
    inception_weights: Path | None = None
    """Weights of inception: the file pt_inception-2015-12-05-6726825d.pth."""
    # Method that resizes images to the 299x299 pixels of inception. Report it with the score.
    resize: Literal["clean", "legacy", "legacy_pytorch"] = "clean"
    insist: bool = False
    """Accept --inception-weights with a different SHA-256."""
    size: int | None = None
    """Crop and resize the images of folders to this many pixels."""
    resamplings: int = 10
    """Number of random halves for the standard error. 0 or 1: no standard error."""
    seed: int = 0
    """Seed of the samples and of the metrics that draw at random."""
    best: bool = False
    """Score the checkpoint with the lowest Fréchet distance, not the newest."""
    ema: bool = True
    """Use the moving average of the generator's weights, not the weights of the last step."""
    cache: bool = True
    """Keep the features of real images in the user's cache folder."""
    out: Path | None = None
    """Folder to write to. None: the folder of --run, otherwise runs/evaluation."""


class _Task(NamedTuple):
    """The images of an evaluation.

    Attributes:
      draw: returns the images to score.
      num, label: their number, and their classes [num] or None.
      shape: their shape [H, W, C].
      what: the record of these images.
      real: the reference.
      others: real images that are not in the reference, or None.
      training: the images that the GAN was trained on, or None if they are not known.
      new: whether the reference is not the training images.
    """

    draw: Callable[[], NDArray[np.uint8]]
    num: int
    label: NDArray[np.int32] | None
    shape: tuple[int, ...]
    what: Record
    real: Images
    others: Images | None
    training: Images | None
    new: bool


def main(config: Config) -> Record:
    """Scores the images, writes the files and returns the contents of evaluation.json."""
    _check(config)
    with jax.enable_x64(False):  # JAX_ENABLE_X64 would change the samples
        return _evaluate(config)


def _check(config: Config) -> None:
    """Raises `UserError` for flags that no images could fit."""
    if (config.run is None) == (config.images is None):
        raise UserError("give the images to score: either --run or --images")
    if config.best and config.run is None:
        raise UserError("--best chooses a checkpoint of --run: leave it out with --images")
    if config.images is not None and config.reference in (None, "held_out", "train"):
        raise UserError(
            "--images needs --reference, the real images: a folder, an npz or IDX file, or the "
            "name of a data set"
        )
    cli.check_names(config, "metrics", METRICS)
    cli.check_at_least(config, num=1, reference_num=1, size=1, resamplings=0)
    cli.check_seed(config)
    if config.extractor == "inception" and config.inception_weights is None:
        raise UserError(
            "--extractor inception needs --inception-weights, the file "
            "pt_inception-2015-12-05-6726825d.pth that pytorch-fid publishes"
        )
    if config.inception_weights is not None and config.extractor != "inception":
        raise UserError("--inception-weights is for --extractor inception: add it")
    cli.check_folder("out", _out(config))


def _evaluate(config: Config) -> Record:
    source = config.run or config.images
    print(f"reading {source} and the real images", file=sys.stderr, flush=True)
    task = _of_run(config) if config.run is not None else _of_images(config)
    choice, certain = _choice(config, task)
    extractor = _extractor(config, choice, task.shape)
    names = _names(config, task, extractor, same_classes=choice == certain)
    wanted = any("probabilities" in METRICS[name].needs for name in names)

    def side(images: Images, what: str, *, keep: bool, probabilities: bool = wanted) -> Side:
        def computed(
            kind: str, function: Callable[[NDArray[np.uint8]], NDArray[np.float32]]
        ) -> NDArray[np.float32]:
            return reference.cached(
                *(images, extractor.name, kind),
                lambda: reference.in_batches(
                    function, images.x, f"{kind} of {len(images.x):,} images, {what}"
                ),
                use=config.cache and keep,
            )

        classified = None
        if probabilities and extractor.probabilities is not None:
            classified = computed("probabilities", extractor.probabilities)
        return Side(computed("features", extractor.features), classified, images.label)

    samples = Images(task.draw(), task.label, "", "samples")
    training = task.training
    if training is not None and choice == "inception":  # thousands of images take minutes
        training, _ = _split(training, config.reference_num)
    fake = side(samples, "samples", keep=False)
    real = side(task.real, "the reference", keep=True)
    known = real
    if training is not None:
        known = side(training, "the training images", keep=True, probabilities=False)
    distance, index = _nearest(fake.features, known.features)
    if training is not None and task.new:
        fake = fake._replace(distance=distance)
        real = real._replace(distance=_nearest(real.features, known.features)[0])
    sides = Sides(fake, real, config.seed)
    if task.others is not None:
        others, _ = _split(task.others, task.num)
        floor = sides._replace(fake=side(others, "other real images", keep=True))
    else:
        # The images may be in an order, such as alternating classes.
        one, other = scores.two_halves(len(real.features), real.label, np.random.default_rng(0))
        floor = sides._replace(fake=real.take(one), real=real.take(other))
    fewest, dimensions = min(len(fake.features), len(real.features)), fake.features.shape[1]
    if "frechet" in names and fewest <= dimensions:
        print(
            f"warning: the Fréchet distance will be far too large, because {fewest:,} images are "
            f"not more than the {dimensions:,} features: use more images, or leave it out, for "
            "example with --metrics kernel prdc",
            file=sys.stderr,
            flush=True,
        )
    found = scores.measure(names, sides, floor, resamplings=config.resamplings)

    shown = samples.x[pairs := _shown(distance)]
    near = (training or task.real).x[index[pairs]]
    picture = plots.grid(np.stack([shown, near], axis=1).reshape(-1, *task.shape), columns=8)
    record = {
        "samples": {**task.what, "num": task.num, "sha256": samples.sha256},
        "reference": {
            "images": task.real.origin,
            "num": len(task.real.x),
            "shape": list(task.shape),
            "sha256": task.real.sha256,
        },
        "real_to_real": {
            "images": "the reference in two halves" if task.others is None else others.origin,
            "num": len(floor.fake.features),
            "reference_num": len(floor.real.features),
        },
        "neighbours": {"among": (training or task.real).origin, "num": len(known.features)},
        "extractor": {"name": extractor.name, "features": dimensions},
        "spread": f"standard deviation over {config.resamplings} random halves of both sets",
        "seed": config.seed,
        "scores": {
            score.name: {
                "value": score.value,
                "spread": score.spread,
                "real_to_real": score.floor,
                "better": score.better,
            }
            for score in found
        },
        "settings": {name: METRICS[name].settings for name in names if METRICS[name].settings},
        **environment(),
    }
    print(_table(record, found))
    _write(config, record, picture)
    return record


def _of_run(config: Config) -> _Task:
    """Returns the task of a run.

    Raises:
      UserError: the folder holds no run with a checkpoint, its data cannot be read or have changed,
        or the reference cannot be read.
    """
    assert config.run is not None
    restored = train.restore(config.run, best=config.best)
    settings = read_config(config.run)
    num = config.num or _NUM
    drawing = sample.Config(config.run, num=num, seed=config.seed, ema=config.ema)
    rows = sample.labels(drawing, restored)
    shape = tuple(settings["data"]["shape"])
    ours = config.reference in (None, "held_out", "train")
    training = None
    try:
        dataset = datasets.load(datasets.Config(**settings["config"]["data"]))
    except datasets.DataError as error:
        if ours:
            raise UserError(
                f"the images of {config.run} cannot be read ({error}); put them back, or add "
                "--reference with other images"
            ) from None
        print(f"the training images cannot be read, so samples are not compared with them: {error}")
    else:
        if dataset.sha256 != settings["data"]["sha256"]:
            raise UserError(
                f"the images of {config.run} have changed since it was trained: put them back"
            )
        name = dataset.name
        training = Images(dataset.x, dataset.label, name, f"training images of {name}")
    new = True
    if not ours:
        real, others = _given(config, shape)
        if training is not None:
            new = _share_known(real, training) < _SHARE_KNOWN
            others = training if new else others
    elif config.reference == "held_out" or (config.reference is None and len(dataset.held_out)):
        if not len(dataset.held_out):
            raise UserError(
                f"--reference held_out: {config.run} has no held-out images; add --reference train,"
                " or train with --data.held-out"
            )
        origin = f"held-out images of {name}"
        held_out = Images(dataset.held_out, dataset.held_out_label, name, origin)
        real, _ = _split(held_out, config.reference_num)
        others = training
    else:
        assert training is not None
        real, others = _split(training, config.reference_num)
        new = False
    what = {
        "run": str(config.run),
        "step": restored.step,
        "checkpoint": "lowest Fréchet distance" if config.best else "newest",
        "weights": "moving average" if config.ema else "last step",
    }
    return _Task(
        draw=lambda: sample.draw(drawing, restored, rows),
        num=num,
        label=None if restored.clustered else rows[0],
        shape=shape,
        what=what,
        real=real,
        others=others,
        training=training,
        new=new,
    )


def _of_images(config: Config) -> _Task:
    """Returns the task of images.

    Raises:
      UserError: the images or the reference cannot be read.
    """
    images = reference.read(str(config.images), "--images", size=config.size)
    if config.num is not None and config.num > len(images.x):
        raise UserError(
            f"--num {config.num} is more than the {len(images.x):,} images in {config.images}"
        )
    images, _ = _split(images, config.num or len(images.x))
    shape = images.x.shape[1:]
    real, others = _given(config, shape)
    return _Task(
        draw=lambda: images.x,
        num=len(images.x),
        label=images.label,
        shape=shape,
        what={"images": str(config.images)},
        real=real,
        others=others,
        training=None,
        new=True,
    )


def _given(config: Config, shape: tuple[int, ...]) -> tuple[Images, Images | None]:
    """Returns the images that --reference names, and those left out, as `_split` does.

    Raises:
      UserError: they cannot be read, or their shape differs from that of the images to score.
    """
    size = config.size or (shape[0] if shape[0] == shape[1] else None)
    channels: Channels = 3 if shape[2] == 3 else 1
    given = reference.read(str(config.reference), "--reference", size=size, channels=channels)
    if given.x.shape[1:] != shape:
        raise UserError(
            f"--reference {config.reference}: its images are {_size(given.x.shape[1:])}, but the "
            f"images to score are {_size(shape)}: give a reference like these, or add --size"
        )
    return _split(given, config.reference_num)


def _split(images: Images, num: int) -> tuple[Images, Images | None]:
    """Returns `num` random images and the remaining ones, or all images and None if none remain."""
    if num >= len(images.x):
        return images, None
    order = np.random.default_rng(0).permutation(len(images.x))
    return images.take(np.sort(order[:num])), images.take(np.sort(order[num:]))


def _share_known(images: Images, training: Images) -> float:
    """Returns the share of the images that are among the training images."""
    known = {x.tobytes() for x in training.x}
    return float(np.mean([x.tobytes() in known for x in images.x]))


def _size(shape: tuple[int, ...]) -> str:
    height, width, channels = shape
    return f"{width}x{height} {'grey' if channels == 1 else 'colour'}"


def _choice(config: Config, task: _Task) -> tuple[str, str | None]:
    """Returns the name of the extractor, and the name of the extractor made for the data or None.

    Raises:
      UserError: no extractor is named and none is certain, or it does not take such images.
    """
    small = takes(task.shape)
    certain = made_for(task.real.name, task.shape)
    choice = config.extractor or certain
    if choice is None:
        raise UserError(
            f"there is no extractor made for {task.real.name or task.real.origin} "
            f"({_size(task.shape)}): add --extractor inception with --inception-weights, or "
            f"--extractor pixels{', or digits or fashion' if small else ''}"
        )
    if choice in EXTRACTORS and not small:
        raise UserError(
            f"--extractor {choice} takes 28x28 grey images, got {_size(task.shape)}: choose "
            "inception or pixels"
        )
    return choice, certain


def _extractor(config: Config, choice: str, shape: tuple[int, ...]) -> Extractor:
    if choice in EXTRACTORS:
        return EXTRACTORS[choice]
    if choice == "pixels":
        if (dimensions := int(np.prod(shape))) > _MOST_PIXELS:
            raise UserError(
                f"--extractor pixels: {dimensions:,} numbers in an image are more than the "
                f"{_MOST_PIXELS:,} it takes: choose inception, or a smaller --size"
            )
        return Extractor(
            f"pixels {_size(shape)}",
            lambda x: x.reshape(len(x), -1).astype(np.float32) / np.float32(255),
        )
    from gan_jax.metrics import inception

    assert config.inception_weights is not None
    try:
        content = config.inception_weights.read_bytes()
    except OSError as error:
        raise UserError(
            f"--inception-weights {config.inception_weights} cannot be read: {error.strerror}"
        ) from None
    try:
        return inception.extractor(content, resize=config.resize, insist=config.insist)
    except ValueError as error:
        raise UserError(
            f"--inception-weights {config.inception_weights}: {error} (--insist)"
        ) from None


def _names(
    config: Config, task: _Task, extractor: Extractor, *, same_classes: bool
) -> tuple[str, ...]:
    """Returns the names of the metrics to compute.

    Raises:
      UserError: a metric that the user named needs more than there is, or images are too few.
    """
    lacking = {}
    if extractor.probabilities is None:
        lacking["probabilities"] = f"class probabilities, and {extractor.name} gives none"
    if task.label is None or task.real.label is None:
        lacking["label"] = "the classes of the images: use a conditional run, or an npz with labels"
    if task.training is None or not task.new:
        lacking["distance"] = "a run with training images, and a reference that is not among them"
    reasons = {
        name: lacking[need]
        for name, metric in METRICS.items()
        for need in metric.needs
        if need in lacking
    }
    if not same_classes:
        reasons.setdefault("label_agreement", "an extractor that knows the classes of the data")
    if task.label is not None and task.real.label is not None:
        least = scores.least_of_class(task.label, task.real.label)
        if least < _LEAST_OF_CLASS:
            reasons["intra_class"] = (
                f"{_LEAST_OF_CLASS} images of every class on both sides, not {least}"
            )
    for name in config.metrics:
        if name in reasons:
            raise UserError(f"--metrics {name} needs {reasons[name]}")
    names = config.metrics or tuple(name for name in scores.DEFAULT if name not in reasons)
    for name in dict.fromkeys(names):
        least = METRICS[name].least
        for what, num in (("--num", task.num), ("--reference", len(task.real.x))):
            if num < least:
                raise UserError(f"{what}: {num} images are too few for {name}, which needs {least}")
    return tuple(dict.fromkeys(names))


def _nearest(
    x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Returns the distance [N] from each point of x to its nearest point of y, and its index."""
    known = jnp.asarray(y)
    found = [
        map(np.asarray, nearest(jnp.asarray(x[start : start + 1024]), known))
        for start in over(range(0, len(x), 1024), f"nearest of {len(y):,} images for {len(x):,}")
    ]
    distances, indices = zip(*found, strict=True)
    return np.concatenate(distances), np.concatenate(indices)


def _shown(distance: NDArray[np.float32]) -> NDArray[np.intp]:
    """Returns the indices of the samples to show: the nearest to a real image, then the first."""
    half = _PAIRS // 2
    return np.concatenate(
        [np.argsort(distance, kind="stable")[:half], np.arange(len(distance))[:half]]
    )


def _table(record: Record, found: Sequence[Score]) -> str:
    """Returns lines that say what was compared, and the scores as a Markdown table."""
    samples, real, floor = record["samples"], record["reference"], record["real_to_real"]
    source = samples.get("images") or f"step {samples['step']} of {samples['run']}"
    dimensions = record["extractor"]["features"]
    lines = [
        f"{samples['num']:,} samples: {source}",
        f"against {real['num']:,} images: {real['images']} (SHA-256 {real['sha256'][:8]})",
        f"on {dimensions:,} features of {record['extractor']['name']}",
        f"real images: {floor['num']:,} against {floor['reference_num']:,}, {floor['images']}",
    ]

    def cell(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    rows = [
        (score.name, cell(score.value), cell(score.spread), cell(score.floor), score.better)
        for score in found
    ]
    return "\n".join(
        [*lines, "", markdown(("score", "samples", "+-", "real images", "better"), rows)]
    )


def _out(config: Config) -> Path:
    """Returns the folder to write to."""
    return config.out or config.run or Path("runs/evaluation").absolute()


def _write(config: Config, record: Record, picture: Image.Image) -> None:
    """Writes the record and the picture under the first names that are free."""
    out = _out(config)
    out.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        end = f"-{number}" if number > 1 else ""
        file, image = out / f"evaluation{end}.json", out / f"neighbours{end}.png"
        if not (file.exists() or image.exists()):
            break
    plots.save_image(picture, image)
    write_json(file, record)
    print(f"\nwrote {file} and {image}")
