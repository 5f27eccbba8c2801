"""The better the discriminator, the smaller the gradient of the generator (vanishing gradient).

The experiment follows Arjovsky and Bottou 2017, figures 2 and 3 and theorem 2.4. G is frozen and D
is trained from scratch. On digits, the experiment measures the norm of G's gradient for two losses,
minimax and non-saturating. In the plane, where D* is known, it compares the norm for the minimax
loss with the bound of the theorem. It writes digits.png, bound.png, summary.json and trainings/
(checkpoints) to --workdir. The same command resumes a run that was stopped.
"""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from experiments.shared import Seen, watched
from gan_jax import GAN, AdversarialLoss, Batch, TrainState, adversarial, losses, run
from gan_jax.data.pipeline import make_batches, on_bytes
from gan_jax.data.synthetic import Distribution, feed
from gan_jax.errors import UserError
from gan_jax.models.mlp import mlp
from gan_jax.parallel import Step
from gan_jax.run import RunFolder, cli, datasets, plots
from gan_jax.run.folder import Record
from gan_jax.run.plots.charts import chart, save_chart
from gan_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the trainings and of the measurements."""

    workdir: Path = Path("runs/vanishing_gradient")
    """Folder of the run. A run in it is resumed, or left unchanged if complete."""
    epochs: tuple[int, ...] = (1, 5, 25)
    """Numbers of epochs after which G is frozen, in rising order."""
    num_steps: int = 3000
    """Updates of each D while G is frozen."""
    width: int = 256
    """Units in each of the two hidden layers of both networks on digits."""
    batch_size: int = 128
    """Real samples in a minibatch. D also gets the same number of fakes."""
    learning_rate: float = 1e-3
    """Adam's learning rate for the discriminator that is trained from scratch."""
    num_minibatches: int = 16
    """Number of minibatches for measuring gradients. Each has 64 fixed z."""
    seed: int = 0
    """Seed of the weights, the noise and the order of the data."""


CHUNK = 10
"""Updates of D in one call of a compiled program. D is measured between calls."""
OPTIONS: dict[str, Any] = {"chunk_length": CHUNK, "layout": "jit"}
"""Options of all trainings."""


def circle(radius: float) -> Distribution:
    """Returns the uniform distribution on a circle. It has no density, so `log_prob` is NaN."""

    def sample(key: Array, num: int) -> Array:
        turn = 2 * jnp.pi * jax.random.uniform(key, (num,))
        return radius * jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=1)

    return Distribution(sample, lambda x: jnp.full(len(x), jnp.nan), np.zeros((1, 2)))


def gradient(gan: GAN, loss: AdversarialLoss, theta: PyTree, psi: PyTree, z: Array) -> Array:
    """Returns d/dtheta of the mean of G's loss over z [B, L], as one vector [P]."""

    def mean_loss(theta: PyTree) -> Array:
        x, _ = gan.generator.apply(theta, {}, z, train=False)
        logits, _ = gan.discriminator.apply(psi, {}, x, train=False)
        return jnp.mean(loss.generator(logits, logits))  # neither loss reads real logits

    return ravel_pytree(jax.grad(mean_loss)(theta))[0]


@partial(jax.jit, static_argnums=0)
def measure(gan: GAN, theta: PyTree, psi: PyTree, z: Array) -> dict[str, Array]:
    """Returns norms of G's gradients over all z [M, B, L], and the variance over M minibatches.

    `saturating` and `non_saturating` are the norms for the minimax and the non-saturating loss.
    `variance` is for the non-saturating loss. It is an unbiased estimate of the trace of the
    covariance of a minibatch's gradient. `relative_deviation` is sqrt(variance) / non_saturating.
    """

    def over(loss: AdversarialLoss) -> Array:
        return jax.lax.map(lambda part: gradient(gan, loss, theta, psi, part), z)

    each = over(losses.non_saturating)
    norm, variance = jnp.linalg.norm(jnp.mean(each, axis=0)), jnp.sum(jnp.var(each, 0, ddof=1))
    return {
        "saturating": jnp.linalg.norm(jnp.mean(over(losses.minimax), axis=0)),
        "non_saturating": norm,
        "variance": variance,
        "relative_deviation": jnp.sqrt(variance) / norm,
    }


@partial(jax.jit, static_argnums=0)
def bound(gan: GAN, theta: PyTree, psi: PyTree, z: Array) -> dict[str, Array]:
    """Returns the norm of G's minimax gradient over z [N, L], and the bound of theorem 2.4.

    The theorem assumes that D* and its slope are 0 near every fake. The bound is M eps / (1 - eps).
    eps is the maximum of D + |dD/dx| over the fakes. M^2 is the mean of the squared spectral
    norm of dG(z)/dtheta. If eps >= 1, the bound is infinite.
    """

    def made(theta: PyTree, z: Array) -> Array:
        return gan.generator.apply(theta, {}, z[None], train=False)[0][0]

    def probability(x: Array) -> Array:
        return jax.nn.sigmoid(gan.discriminator.apply(psi, {}, x[None], train=False)[0][0])

    def squared_slope(z: Array) -> Array:
        columns = [jax.grad(lambda t, i=i: made(t, z)[i])(theta) for i in range(2)]
        rows = jnp.stack([ravel_pytree(column)[0] for column in columns])
        return jnp.linalg.eigvalsh(rows @ rows.T)[-1]

    d, slope = jax.vmap(jax.value_and_grad(probability))(jax.vmap(made, (None, 0))(theta, z))
    eps = jnp.max(d + jnp.linalg.norm(slope, axis=1))
    factor = jnp.sqrt(jnp.mean(jax.lax.map(squared_slope, z)))
    norm = jnp.linalg.norm(gradient(gan, losses.minimax, theta, psi, z))
    return {
        "norm": norm,
        "bound": jnp.where(eps < 1, factor * eps / (1 - eps), jnp.inf),
        "eps": eps,
    }


def follow(
    folder: RunFolder,
    name: str,
    step: Step,
    state: TrainState,
    metrics: Callable[[PyTree, PyTree], dict[str, Array]],
    num_steps: int,
    batches: Callable[[int], Batch] | None = None,
) -> Seen:
    """Trains D with `step`. Returns the metrics before training and at about 30 later steps."""
    due = CHUNK * np.unique(np.geomspace(1, num_steps // CHUNK, 30).round().astype(int))
    options = {**OPTIONS, "num_steps": num_steps, "batches": batches}

    def see(state: TrainState) -> dict[str, Array]:
        return metrics(state.generator.params, state.discriminator.params)

    _, seen = watched(folder, name, step, state, see, every=due.tolist(), **options)
    return {name: values.astype(float) for name, values in seen.items()}


def on_digits(config: Config, folder: RunFolder) -> dict[int, Seen]:
    """Returns the metrics of `measure` while D learns, for each number of epochs of G."""
    dataset = datasets.load(datasets.Config(source="embedded"))
    gan = mlp(dataset.x.shape[1:], width=config.width)
    keys = jax.random.split(jax.random.key(config.seed), 5)
    z = gan.prior(keys[0], config.num_minibatches * 64).reshape(config.num_minibatches, 64, -1)
    dcgan_tx, tx = optax.adam(2e-4, b1=0.5), optax.adam(config.learning_rate)
    game = partial(adversarial, gan, losses.non_saturating, generator_tx=dcgan_tx)
    both, alone = game(discriminator_tx=dcgan_tx), game(discriminator_tx=tx)

    size, per_epoch = config.batch_size, len(dataset.x) // config.batch_size
    pairs = make_batches(dataset, keys[1], (CHUNK, 1, size))
    singles = make_batches(dataset, keys[2], (CHUNK, size))

    def pairs_after(done: int, step: int) -> Batch:
        return pairs((done + step) * size)

    example = Batch(jnp.zeros((2, *dataset.x.shape[1:])))
    state = jax.jit(lambda key: both.init(key, example))(keys[3])
    fresh = jax.jit(lambda key: alone.init(key, example))(keys[4])
    tables = {}
    for before, epoch in itertools.pairwise((0, *config.epochs)):
        state = run.train(
            on_bytes(both.step),
            state,
            partial(pairs_after, before * per_epoch),
            folder=folder.part(f"trainings/generator_to_epoch_{epoch}"),
            num_steps=(epoch - before) * per_epoch,
            words=plots.in_short,
            **OPTIONS,
        )
        tables[epoch] = follow(
            folder,
            f"discriminator_at_epoch_{epoch}",
            on_bytes(alone.discriminator_step),
            # A copy: training consumes the state it is given.
            jax.tree.map(jnp.copy, dataclasses.replace(fresh, generator=state.generator)),
            lambda theta, psi: measure(gan, theta, psi, z),
            config.num_steps,
            lambda step: singles(step * size),
        )
    return tables


def in_the_plane(config: Config, folder: RunFolder) -> Seen:
    """Returns the metrics of `bound` while D learns.

    Real samples are on a circle, and fakes are inside it.
    """
    gan, tx = mlp((2,), latent=2, width=64), optax.adam(config.learning_rate)
    game = adversarial(gan, losses.minimax, generator_tx=optax.identity(), discriminator_tx=tx)
    keys = jax.random.split(jax.random.key(config.seed), 2)
    z = gan.prior(keys[1], 1024)
    return follow(
        folder,
        "discriminator_in_the_plane",
        feed(game.discriminator_step, circle(3.0), (config.batch_size,)),
        jax.jit(lambda key: game.init(key, Batch(jnp.zeros((2, 2)))))(keys[0]),
        lambda theta, psi: bound(gan, theta, psi, z),
        config.num_steps,
    )


def main(config: Config) -> Record:
    """Measures on digits and in the plane, and returns the summary."""
    cli.check_at_least(config, num_steps=CHUNK, width=1, batch_size=1, num_minibatches=2)
    cli.check_above_zero(config, "learning_rate")
    cli.check_seed(config)
    if config.batch_size > 5000:
        raise UserError(f"--batch-size must be at most 5000, the digits, got {config.batch_size}")
    if config.num_steps % CHUNK:
        raise UserError(f"--num-steps must be a multiple of {CHUNK}, got {config.num_steps}")
    if not config.epochs or sorted({0, *config.epochs}) != [0, *config.epochs]:
        raise UserError(f"--epochs must be above 0 and rise, such as 1 5 25, got {config.epochs}")
    return cli.record("vanishing_gradient", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    tables, plane = on_digits(config, folder), in_the_plane(config, folder)
    _draw_digits(tables, folder.path / "digits.png")
    _draw_bound(plane, folder.path / "bound.png")
    digits: Record = {}
    for epoch, seen in tables.items():
        ends = {name: _ends(values) for name, values in seen.items() if name != "step"}
        fall = np.log10(ends["saturating"]["start"] / ends["saturating"]["end"])
        digits[str(epoch)] = ends | {"orders_of_magnitude_saturating_fell": float(fall)}
    bounded = plane["eps"] < 1
    norm, limit = plane["norm"][bounded], plane["bound"][bounded]
    return {
        "digits_by_epochs_of_G": digits,
        "plane": {
            "norm": _ends(plane["norm"]),
            "eps": _ends(plane["eps"]),
            "measured": len(bounded),
            "measured_where_eps_below_1": len(norm),
            "bound_respected": bool((norm <= limit).all()),
            "smallest_bound_over_norm": min((limit / norm).tolist(), default=None),
        },
        "protocol": f"seed {config.seed}, {config.num_steps} updates of D, batch "
        f"{config.batch_size}; digits: the embedded 5000, norms over {config.num_minibatches} x 64 "
        "fixed z, variance over these minibatches; plane: 1024 fixed z, float32",
        "pictures": ["digits.png", "bound.png"],
    }


def _ends(values: np.ndarray) -> dict[str, float]:
    return {"start": float(values[0]), "end": float(values[-1])}


def _draw_digits(tables: dict[int, Seen], file: Path) -> None:
    shown = (
        ("saturating", "log(1 - D): the gradient vanishes as D learns", "norm of G's gradient"),
        ("non_saturating", "-log D: the gradient grows instead", "norm of G's gradient"),
        ("variance", "The variance of -log D's gradient grows too", "trace of covariance"),
        ("relative_deviation", "The ratio of noise to gradient stays", "standard deviation / norm"),
    )
    figure, grid = chart(2, 2, size=(12, 8), sharex=True)
    for axes, (name, title, label) in zip(grid.flat, shown, strict=True):
        for epoch, seen in tables.items():
            axes.plot(seen["step"], seen[name], ".-", label=f"{epoch}")
        axes.set(title=title, ylabel=label, yscale="log")
        axes.set_xscale("symlog", linthresh=CHUNK)
        axes.grid(alpha=0.3)
    grid[1, 1].set(yscale="linear", ylim=(0, None))
    grid[0, 0].legend(title="G frozen after epoch", ncols=3, fontsize=9)
    for axes in grid[1]:
        axes.set_xlabel("updates of D, trained from scratch")
    save_chart(figure, file)


def _draw_bound(seen: Seen, file: Path) -> None:
    figure, axes = chart(size=(8, 5))
    step, eps, limit, norm = (seen[name][1:] for name in ("step", "eps", "bound", "norm"))
    limit = np.where(np.isfinite(limit), limit, np.nan)
    axes.loglog(step, eps, "k:", label="eps = max (D + |dD/dx|) on fakes")
    axes.loglog(step, limit, "C1--", label="bound M eps / (1 - eps), if eps < 1")
    axes.loglog(step, norm, "C0", label="|d/dtheta E log(1 - D(G(z)))|")
    axes.set(title="Disjoint supports: G's gradient vanishes as D approaches D*")
    axes.set(xlabel="updates of D", ylabel="norm of G's gradient; eps")
    axes.legend()
    axes.grid(alpha=0.3)
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
