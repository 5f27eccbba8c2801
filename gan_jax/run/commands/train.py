"""Trains a GAN on images.

The same command resumes a run that was stopped. These files are written to --workdir:
- samples/: grids of samples, always from the same noise
- samples.gif and history.png: the grids of the whole run
- curves.png and metrics.jsonl: the metrics during training
- summary.json: the final results
- checkpoints/: the newest states, from which the run resumes
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from numpy.typing import NDArray

from gan_jax import (
    GAN,
    Batch,
    TrainState,
    adversarial,
    augment,
    losses,
    mixed_precision,
    parallel,
    rematerialised,
    terms,
)
from gan_jax.algorithms.player import rising_decay
from gan_jax.errors import UserError
from gan_jax.models import MODELS, ModelName
from gan_jax.optimizers import adam, clip_weights
from gan_jax.penalties import dragan, gradient_penalty, lazy, r1, r1_auto, r2
from gan_jax.run import cli, datasets
from gan_jax.run.checkpoint import Checkpoints, saved_steps
from gan_jax.run.datasets import clusters
from gan_jax.run.folder import best_record, read_config, read_records
from gan_jax.run.warm_start import warm_start
from gan_jax.run.watch import SCORE, UNSIGNED
from gan_jax.schedules import half_cosine
from gan_jax.types import Array, Augment, Augmentation, Metrics, Penalty, StepFn, Weight

NAME = "train"
"""The experiment's name in `config.json`."""

_OLD_NAME = "mnist"
"""The name that earlier versions wrote. Their runs resume under it."""


Conditional: TypeAlias = Literal["auto", "none", "projection", "concat", "acgan", "reacgan"]

# The names are in the text, because tyro moves the texts of all flags below long choices.
_LOSS = tyro.conf.arg(metavar="NAME", help=f"Loss of the two networks: {', '.join(losses.LOSSES)}.")
_CLIP = tyro.conf.arg(metavar="C", help="Clip D's weights to [-C, C], as in WGAN.")


@dataclasses.dataclass(frozen=True)
class Config:
    """The settings of a run."""

    workdir: Path = Path("runs/mnist")
    """Folder of the run, which is resumed if it exists."""
    num_steps: int = 5000
    """Number of generator updates."""
    conditional: Conditional = "auto"
    """Use of classes. auto: projection if the data have any."""
    clusters: int | None = None
    """Number of image clusters that replace the classes."""
    batch_size: int = 32
    """Real images per batch, over all devices."""
    n_critic: int = 1
    """D's updates per update of G."""
    seed: int = 0
    """Seed of the weights, the noise and the order of the images."""
    init_from: Path | None = None
    """Run whose weights are copied where name and shape match."""
    loss: Annotated[losses.LossName, _LOSS] = "non_saturating"
    model: ModelName = "dcgan"
    """Architecture of the two networks."""
    width: int | None = None
    """Features per layer. None: the default of the model."""
    discriminator_norm: bool = False
    """Batch norm in D of dcgan (Radford et al. 2016)."""
    latent: int = 32
    """Number of dimensions of the noise z."""
    generator_lr: float = 1e-3
    """Adam's learning rate for G."""
    discriminator_lr: float = 1e-3
    """Adam's learning rate for D."""
    final_lr_share: float = 1.0
    """Final share of the initial learning rates (half cosine)."""
    b1: float = 0.0
    """Decay rate of Adam's average of the gradient."""
    b2: float = 0.99
    """Decay rate of Adam's average of the squared gradient."""
    final_b2: float | None = None
    """Final b2 (half cosine). None: b2 is constant."""
    r1: float | Literal["auto"] = 0.5
    """Weight gamma of R1, gamma/2 |grad D|^2 on real images. auto: 0.0002 pixels/batch."""
    r2: float = 0.0
    """Weight gamma of R2: R1's formula on fake images."""
    gradient_penalty: Annotated[float, tyro.conf.arg(metavar="W")] = 0.0
    """Weight of WGAN-GP's penalty, usually 10. Needs --r1 0."""
    dragan: float = 0.0
    """Weight of DRAGAN. Needs --r1 0."""
    clip_weights: Annotated[float | None, _CLIP] = None
    penalty_every: int = 1
    """Apply the penalties in every n-th update of D."""
    final_penalty_share: float = 1.0
    """Final share of the penalties' weights (half cosine)."""
    augment: Literal["none", "shift", "diffaugment", "ada"] = "none"
    """Random changes of D's images, for small data sets."""
    augment_p: float | None = None
    """Final probability of ada (half cosine). None: adaptive."""
    augment_target: float = 0.6
    """Mean sign of D's logits on real images, kept by ada."""
    ema_decay: float = 0.998
    """Decay rate of the average of G's weights."""
    data: datasets.Config = dataclasses.field(default_factory=datasets.Config)
    """The images to train on."""
    parallel: Literal["shard", "jit", "pmap"] = "shard"
    """shard, pmap: all devices. jit: one device."""
    accumulate: int = 1
    """Microbatches per batch, to save memory."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the networks' activations."""
    rematerialise: bool = False
    """Recompute activations to save memory."""
    log_every: int = 50
    """Steps between two records of the metrics."""
    sample_every: int = 200
    """Steps between two grids of samples."""
    evaluate_every: int = 500
    """Steps between two Fréchet distances. 0: none."""
    checkpoint_every: int = 500
    """Steps between two checkpoints."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints to keep, besides the best."""
    tensorboard: bool = False
    """Write TensorBoard files too."""


FREE = frozenset(
    {
        *("workdir", "data.dir", "data.name", "data.source", "num_steps", "log_every"),
        *("sample_every", "evaluate_every", "checkpoint_every", "keep_checkpoints", "tensorboard"),
    }
)
"""Settings that may change when a run is resumed, because no step's result depends on them. The
images must stay the same: the run records their digest, and the name of the data set with it."""

_SCHEDULES = {"final_lr_share": 1, "final_penalty_share": 1, "final_b2": None, "augment_p": None}
"""Settings of schedules that last `num_steps`, each with the value that turns it off."""

_DAMAGED = (AttributeError, LookupError, TypeError, ValueError, ArithmeticError)
"""Exceptions that `build` may raise if the settings are damaged. JSON is read without a check of
types."""


def check(config: Config) -> None:
    """Raises `UserError` for values that no run could use."""
    counts = ["num_steps", "batch_size", "n_critic", "latent", "log_every", "sample_every"]
    counts += ["checkpoint_every", "keep_checkpoints", "accumulate", "penalty_every", "width"]
    weights = ["evaluate_every", "r2", "gradient_penalty", "dragan"]
    weights += ["r1"] if config.r1 != "auto" else []
    cli.check_at_least(config, **dict.fromkeys(counts, 1), **dict.fromkeys(weights, 0))
    cli.check_seed(config)
    cli.check_above_zero(config, "generator_lr", "discriminator_lr", "clip_weights")
    cli.check_below_one(config, "b1", "b2", "final_b2", "ema_decay")
    cli.check_share(config, "final_lr_share", "final_penalty_share", "augment_p")
    _check_limits(config)
    _check_augmentation(config)
    if config.conditional == "none" and config.clusters is not None:
        raise UserError(
            f"--clusters {config.clusters} needs --conditional projection or another form, not none"
        )
    devices = parallel.num_devices(config.parallel)
    try:
        parallel.check_batch_size(config.batch_size, devices)
    except UserError as error:
        raise UserError(
            f"--batch-size {config.batch_size}: {error} (--parallel jit); to resume a run that "
            "used fewer devices, hide the others from JAX, for example with CUDA_VISIBLE_DEVICES"
        ) from None
    if (config.batch_size // devices) % config.accumulate:
        raise UserError(
            f"--accumulate must divide {config.batch_size // devices}, the number of images per "
            f"batch and device, got {config.accumulate}"
        )


_LIMITS = ("r1", "r2", "gradient_penalty", "dragan", "clip_weights")
"""Settings that limit D's slope. R1 and R2 can be used together."""


def _check_limits(config: Config) -> None:
    """Raises `UserError` if two limits on D's slope conflict."""
    used = [name for name in _LIMITS if getattr(config, name)]
    if len(used) > 1 and used != ["r1", "r2"]:
        first, last = (f"{cli.flag(name)} {getattr(config, name)}" for name in (used[0], used[-1]))
        off = f"{cli.flag(used[0])} 0"
        raise UserError(
            f"{first} and {last} both limit D's slope: turn one off, for example with {off}"
        )


def _check_augmentation(config: Config) -> None:
    """Raises `UserError` if a setting of ada is out of range or would have no effect."""
    target, adaptive = config.augment_target, config.augment == "ada" and config.augment_p is None
    has_target = target != Config.augment_target
    if not -1 < target < 1:
        raise UserError(f"--augment-target must be between -1 and 1, got {target}")
    if (adaptive or has_target) and config.loss in UNSIGNED:
        raise UserError(
            f"--augment ada adapts p to the signs of D's logits, which mean nothing for --loss "
            f"{config.loss}: add --augment-p, such as 0.5, without --augment-target, or choose "
            "another loss"
        )
    if config.augment != "ada" and config.augment_p is not None:
        raise UserError(f"--augment-p {config.augment_p} is for --augment ada: add it")
    if has_target and not adaptive:
        raise UserError(
            f"--augment-target {target} needs an adaptive p: use --augment ada --augment-p None"
        )


def check_dataset(config: Config, dataset: datasets.Dataset) -> None:
    """Raises `UserError` if the data set has fewer images than a batch."""
    if config.batch_size > len(dataset.x):
        raise UserError(
            f"--batch-size {config.batch_size} is more than the {len(dataset.x)} images of "
            f"{dataset.name} ({dataset.source}): make it smaller, or use more images"
        )


def networks(config: Config, shape: tuple[int, int, int], num_classes: int = 10) -> GAN:
    """Returns the networks for images [H, W, C]. They are conditional if the settings say so.

    Raises:
      UserError: the model cannot make such images.
    """
    options: dict[str, Any] = {} if config.width is None else {"width": config.width}
    if config.model == "dcgan":
        options["discriminator_norm"] = config.discriminator_norm
    if is_conditional(config):
        options |= {"num_classes": num_classes, "conditional": config.conditional}
    try:
        return MODELS[config.model](shape, latent=config.latent, **options)
    except ValueError as error:
        remedy = "--data.size resizes images, and --model mlp takes any size"
        raise UserError(f"--model {config.model}: {error} ({remedy})") from None


def is_conditional(config: Config) -> bool:
    """Returns whether the networks receive the classes of the images.

    It is known only after `with_classes` has replaced `auto`. Until then, `auto` counts as none.
    """
    return config.conditional not in ("auto", "none")


def with_classes(
    config: Config, dataset: datasets.Dataset, label: NDArray[np.int32] | None
) -> tuple[Config, datasets.Dataset]:
    """Returns the settings without `auto`, and the data with their classes or clusters.

    The returned settings name the data set that was read.

    Args:
      config: the settings.
      dataset: the data.
      label: the clusters of the images, which replace the classes. None: no clusters.
    """
    if label is not None:
        names = tuple(map(str, range(int(config.clusters or 0))))
        dataset = dataset._replace(label=label, classes=names, held_out_label=None)
    if config.conditional == "auto":
        found: Conditional = "projection" if datasets.has_every_class(dataset) else "none"
        config = dataclasses.replace(config, conditional=found)
    data = dataclasses.replace(config.data, name=dataset.name)  # a folder may have the default name
    return dataclasses.replace(config, data=data), dataset


def _moved(first: float, last: float, updates: int) -> Any:
    """Returns a schedule from the first to the last number, or the number if they are equal."""
    return first if first == last else half_cosine(first, last, updates, batch_size=1)


def _augmentation(config: Config, updates: int) -> Augment | Augmentation | None:
    """Returns the augmentation in front of D."""
    if config.augment == "shift":
        return augment.shift
    if config.augment == "diffaugment":
        return augment.diff_augment
    if config.augment == "ada" and config.augment_p is not None:
        return augment.scheduled(augment.ada.pipe, _moved(0.0, config.augment_p, updates))
    if config.augment == "ada":  # p may rise from 0 to 1 in 500,000 images
        rate = config.batch_size / 500_000
        return augment.adaptive(augment.ada.pipe, rate=rate, target=config.augment_target)
    return None


def build(
    config: Config,
    axis_name: str | None = None,
    shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
) -> tuple[GAN, TrainState, StepFn]:
    """Returns the networks, the first state and the pure train step.

    They are for images [H, W, C] and, if the settings say so, for this number of classes.
    """
    gan = networks(config, shape, num_classes)
    if config.precision == "bfloat16":
        gan = mixed_precision(gan)
    if config.rematerialise:
        gan = rematerialised(gan)
    updates = config.num_steps * config.n_critic  # of D

    def tx(rate: float, updates: int) -> optax.GradientTransformation:
        b2 = config.b2 if config.final_b2 is None else config.final_b2
        return adam(
            _moved(rate, rate * config.final_lr_share, updates),
            b1=config.b1,
            b2=_moved(config.b2, b2, updates),
        )

    def weight(first: float) -> Weight:
        size = _moved(first, first * config.final_penalty_share, updates)
        return size if config.penalty_every == 1 else lazy(size, config.penalty_every)

    discriminator_tx = tx(config.discriminator_lr, updates)
    if config.clip_weights is not None:
        discriminator_tx = clip_weights(discriminator_tx, config.clip_weights)
    side = math.sqrt(shape[0] * shape[1])
    gamma = r1_auto(side, config.batch_size) if config.r1 == "auto" else config.r1
    weights: tuple[tuple[Penalty, float], ...] = (
        (r1, gamma / 2),
        (r2, config.r2 / 2),
        (gradient_penalty, config.gradient_penalty),
        (dragan, config.dragan),
    )
    of_class = terms.CONDITIONAL_TERMS.get(config.conditional, terms.ConditionalTerms())
    algorithm = adversarial(
        gan,
        losses.LOSSES[config.loss],
        generator_tx=tx(config.generator_lr, config.num_steps),
        discriminator_tx=discriminator_tx,
        penalties=[(penalty, weight(first)) for penalty, first in weights if first],
        discriminator_terms=of_class.discriminator,
        generator_terms=of_class.generator,
        augmentation=_augmentation(config, updates),
        n_critic=config.n_critic,
        # The average follows the first updates closely, so early samples show progress.
        ema_decay=rising_decay(config.ema_decay),
        accumulate=config.accumulate,
        axis_name=axis_name,
    )

    label = jnp.zeros(2, jnp.int32) if is_conditional(config) else None

    def begin(seed: Array) -> TrainState:
        return algorithm.init(jax.random.key(seed), Batch(jnp.zeros((2, *shape)), label))

    state = jax.jit(begin)(np.uint32(config.seed))
    if config.augment_p is not None:
        return gan, state, _with_p(algorithm.step, _moved(0.0, config.augment_p, updates))
    return gan, state, algorithm.step


def _with_p(step: StepFn, p: Any) -> StepFn:
    """Returns a step whose metrics include the scheduled probability of the augmentation."""

    @functools.wraps(step)
    def stepped(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        state, metrics = step(state, batch)
        now = p(state.discriminator.step - 1) if callable(p) else p
        return state, {**metrics, "augmentation_p": jnp.float32(now)}

    return stepped


class Restored(NamedTuple):
    """A trained GAN.

    Attributes:
      gan, step, state: the networks, and the step and the state of a checkpoint.
      classes: the names of the classes in the order of their labels. None: G takes no class.
      counts: the number of training images of each class.
      clustered: whether the classes are clusters.
    """

    gan: GAN
    step: int
    state: TrainState
    classes: tuple[str, ...] | None
    counts: tuple[int, ...]
    clustered: bool


def restore(run: Path, *, best: bool = False) -> Restored:
    """Returns a run's GAN with the state of its newest readable checkpoint.

    Args:
      run: the folder of the run.
      best: whether to read the checkpoint with the lowest Fréchet distance instead.

    Raises:
      UserError: the folder does not contain a run of this command, or it has no checkpoint, or no
        checkpoint was evaluated.
      CheckpointError: no checkpoint can be read.
    """
    settings = read_config(run)
    if settings.get("experiment") not in (NAME, _OLD_NAME):
        raise UserError(
            f"{run} is a run of {settings.get('experiment')}: only runs of gan-jax train, "
            "experiments.mnist and experiments.images can be read here"
        )
    try:
        raw = settings["config"]
        config = Config(**{**raw, "data": datasets.Config(**raw["data"])})
        classes = tuple(settings["data"]["classes"]) if is_conditional(config) else None
        counts = tuple(settings["data"]["counts"] or ())
        shape = tuple(settings["data"]["shape"])
        gan, template, _ = build(config, None, shape, len(classes or ()))
    except _DAMAGED as error:
        raise UserError(
            f"{run / 'config.json'} does not describe a run of this version ({error!r})"
        ) from None
    with closing(Checkpoints(run / "checkpoints", keep=None)) as checkpoints:
        only = _best_step(run, checkpoints.steps) if best else None
        restored = checkpoints.restore(template, only=only)
    if restored is None:
        raise UserError(f"{run} has no checkpoint yet: let the run go on for a while")
    return Restored(gan, *restored, classes, counts, config.clusters is not None)


def _best_step(run: Path, steps: Sequence[int]) -> int:
    """Returns the step of the checkpoint with the lowest Fréchet distance."""
    found = best_record(read_records(run), SCORE, steps)
    if found is None:
        raise UserError(
            f"{run} has no checkpoint with a Fréchet distance: train with --evaluate-every"
        )
    return int(found["step"])


def _name(workdir: Path) -> str:
    """Returns the experiment's name for a run in a folder, which may hold a run already."""
    begun = (workdir / "config.json").exists()
    return _OLD_NAME if begun and read_config(workdir).get("experiment") == _OLD_NAME else NAME


def main(config: Config) -> TrainState:
    """Trains in `config.workdir`, or resumes the run in it."""
    check(config)
    cli.check_workdir(config)
    if (size := config.data.size) is not None:  # fails before images are read
        networks(config, (size, size, config.data.channels or 1))
    where = f"in {config.data.dir}" if config.data.dir else f"of {config.data.name}"
    print(f"reading the images {where}, then building the networks", flush=True)
    from gan_jax.run import images  # takes 0.3 s, so bad flags are refused first

    labelled = is_conditional(config) and config.clusters is None
    loaded = datasets.load(config.data, labelled=labelled)
    check_dataset(config, loaded)
    file, label = config.workdir / "clusters.npz", None
    if config.clusters is not None:
        label = clusters.kept(file, loaded.x, config.clusters)
    config, dataset = with_classes(config, loaded, label)
    scheduled = any(getattr(config, name) != value for name, value in _SCHEDULES.items())
    free = FREE - {"num_steps"} if scheduled else FREE
    # The digest is that of the images and their own labels, which any command can load.
    data = images.describe(dataset, loaded.sha256)
    folder = cli.open_run(_name(config.workdir), config, free=free, data=data)
    if label is not None:
        with folder.visit():
            clusters.keep(file, label)
    axis_name, shape = parallel.AXIS_NAMES[config.parallel], dataset.x.shape[1:]
    gan, state, step = build(config, axis_name, shape, len(dataset.classes or ()))
    if config.init_from is not None and not saved_steps(folder.checkpoints):
        try:
            other = restore(config.init_from)
            state = warm_start(state, other.state, f"step {other.step} of {config.init_from}")
        except UserError as error:
            raise UserError(f"--init-from: {error}") from None
    return images.train(
        gan,
        state,
        step,
        dataset,
        folder=folder,
        num_steps=config.num_steps,
        batch_size=config.batch_size,
        n_critic=config.n_critic,
        layout=config.parallel,
        chunk_length=config.log_every,
        sample_every=config.sample_every,
        evaluate_every=config.evaluate_every or None,
        loss=config.loss,
        conditional=is_conditional(config),
        checkpoint_every=config.checkpoint_every,
        keep_checkpoints=config.keep_checkpoints,
        tensorboard=config.tensorboard,
    )
