"""A better discriminator leaves the generator less to learn from: the vanishing gradient.

Arjovsky and Bottou 2017, figures 2 and 3, theorem 2.4. G is frozen and D trained from scratch. On
digits: the norm of the gradient of both losses in G's parameters. In the plane, where D* is known:
that norm under the theorem's bound. Writes to --workdir: digits.png, bound.png, summary.json and,
with the checkpoints, trainings/. The same command resumes a run that was stopped.
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

from gan_jax import (
    GAN,
    AdversarialLoss,
    Batch,
    TrainState,
    init,
    losses,
    make_discriminator_step,
    make_generator_step,
    make_train_step,
    run,
)
from gan_jax.data.pipeline import make_batches, on_bytes
from gan_jax.data.synthetic import Distribution, feed
from gan_jax.errors import UserError
from gan_jax.models.mlp import mlp
from gan_jax.parallel import Step
from gan_jax.run import Look, RunFolder, cli, datasets, plots
from gan_jax.run.folder import Record
from gan_jax.run.plots.charts import chart, save_chart
from gan_jax.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Config:
    """How long G is trained, how long D is trained against it, and what is measured on."""

    workdir: Path = Path("runs/vanishing_gradient")
    """The run's folder. A run that is there already is resumed, or left alone if complete."""
    epochs: tuple[int, ...] = (1, 5, 25)
    """Passes over the digits after which G is frozen, in rising order."""
    num_steps: int = 3000
    """Updates of each discriminator against a frozen generator."""
    width: int = 256
    """Units in each of the two hidden layers of G and of D on digits."""
    batch_size: int = 128
    """Real samples in each update, and as many fake ones."""
    learning_rate: float = 1e-3
    """Adam's, for the discriminator that is trained from scratch."""
    num_minibatches: int = 16
    """Minibatches of 64 fixed z each that gradients are measured on."""
    seed: int = 0
    """Of the weights, the noise and the order of the data."""


CHUNK = 10
"""Updates of D in one compiled program; it is measured between two of these."""

OPTIONS: dict[str, Any] = {"chunk_length": CHUNK, "layout": "jit", "words": plots.in_short}
"""The settings that all trainings share."""


def circle(radius: float) -> Distribution:
    """Uniform on a circle in the plane, where it has no density: `log_prob` is NaN."""

    def sample(key: Array, num: int) -> Array:
        turn = 2 * jnp.pi * jax.random.uniform(key, (num,))
        return radius * jnp.stack([jnp.cos(turn), jnp.sin(turn)], axis=1)

    return Distribution(sample, lambda x: jnp.full(len(x), jnp.nan), np.zeros((1, 2)))


def gradient(gan: GAN, loss: AdversarialLoss, theta: PyTree, psi: PyTree, z: Array) -> Array:
    """d/dtheta of the mean of G's loss over z [B, L], as one vector [P]."""

    def mean_loss(theta: PyTree) -> Array:
        x, _ = gan.generator.apply(theta, {}, z, train=False)
        logits, _ = gan.discriminator.apply(psi, {}, x, train=False)
        return jnp.mean(loss.generator(logits, logits))  # neither loss reads real logits

    return ravel_pytree(jax.grad(mean_loss)(theta))[0]


@partial(jax.jit, static_argnums=0)
def measure(gan: GAN, theta: PyTree, psi: PyTree, z: Array) -> dict[str, Array]:
    """Norms of G's gradients over all of z [M, B, L], and their spread over the M minibatches.

    `variance` is the trace of the covariance of the non-saturating minibatch gradient, unbiased;
    `relative_deviation` its square root over that gradient's norm.
    """

    def over(loss: AdversarialLoss) -> Array:
        return jax.lax.map(lambda part: gradient(gan, loss, theta, psi, part), z)

    many = over(losses.non_saturating)
    norm, variance = jnp.linalg.norm(jnp.mean(many, axis=0)), jnp.sum(jnp.var(many, 0, ddof=1))
    return {
        "saturating": jnp.linalg.norm(jnp.mean(over(losses.minimax), axis=0)),
        "non_saturating": norm,
        "variance": variance,
        "relative_deviation": jnp.sqrt(variance) / norm,
    }


@partial(jax.jit, static_argnums=0)
def bound(gan: GAN, theta: PyTree, psi: PyTree, z: Array) -> dict[str, Array]:
    """The saturating gradient's norm over z [N, L] and theorem 2.4's bound M eps / (1 - eps).

    For D* = 0 with no slope around every fake: eps = max of D + |dD/dx| over the fakes, and M^2 =
    mean of |dG(z)/dtheta|^2, in the spectral norm. inf where eps >= 1 and there is no bound.
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
    figures: Callable[[PyTree, PyTree], dict[str, Array]],
    num_steps: int,
    batches: Callable[[int], Batch] | None = None,
) -> dict[str, list[float]]:
    """Trains D by `step` and measures it about 30 times on the way.

    Returns:
      The columns of a table: `step` and every figure, from D's first weights to its last.
    """
    num = num_steps // CHUNK
    due = CHUNK * np.unique(np.geomspace(1, num, 30).round().astype(int))
    part = folder.part(f"trainings/{name}")

    def see(state: TrainState) -> dict[str, Array]:
        return figures(state.generator.params, state.discriminator.params)

    looks = [Look(due.tolist(), see, part.keep)]
    run.train(step, state, batches, folder=part, num_steps=num_steps, looks=looks, **OPTIONS)
    steps, found = zip(*part.kept(), strict=True)
    columns = {name: [float(at[name]) for at in found] for name in found[0]}
    return {"step": list(map(float, steps)), **columns}


def on_digits(config: Config, folder: RunFolder) -> dict[int, dict[str, list[float]]]:
    """Epochs of G's training -> what `measure` says while D is trained against that G."""
    dataset = datasets.load(datasets.Config(source="embedded"))
    gan = mlp(dataset.x.shape[1:], width=config.width)
    keys = jax.random.split(jax.random.key(config.seed), 5)
    z = gan.prior(keys[0], config.num_minibatches * 64).reshape(config.num_minibatches, 64, -1)
    slow, fast = optax.adam(2e-4, b1=0.5), optax.adam(config.learning_rate)  # DCGAN's; from scratch
    make = partial(make_discriminator_step, gan, losses.non_saturating)
    both = make_train_step(make(slow), make_generator_step(gan, losses.non_saturating, slow))

    size, per_epoch = config.batch_size, len(dataset.x) // config.batch_size
    pairs = make_batches(dataset, keys[1], (CHUNK, 1, size))
    singles = make_batches(dataset, keys[2], (CHUNK, size))

    def shown(before: int, step: int) -> Batch:
        return pairs((before + step) * size)

    example = Batch(jnp.zeros((2, *dataset.x.shape[1:])))
    state, tables = jax.jit(partial(init, gan, slow, slow, batch=example))(keys[3]), {}
    fresh = jax.jit(partial(init, gan, slow, fast, batch=example))(keys[4])
    for before, epoch in itertools.pairwise((0, *config.epochs)):
        state = run.train(
            on_bytes(both),
            state,
            partial(shown, before * per_epoch),
            folder=folder.part(f"trainings/generator_to_epoch_{epoch}"),
            num_steps=(epoch - before) * per_epoch,
            **OPTIONS,
        )
        tables[epoch] = follow(
            folder,
            f"discriminator_at_epoch_{epoch}",
            on_bytes(make(fast)),
            # A copy: training consumes the state it is given.
            jax.tree.map(jnp.copy, dataclasses.replace(fresh, generator=state.generator)),
            lambda theta, psi: measure(gan, theta, psi, z),
            config.num_steps,
            lambda step: singles(step * size),
        )
    return tables


def in_the_plane(config: Config, folder: RunFolder) -> dict[str, list[float]]:
    """What `bound` says while D is trained on a circle and on a G bounded to a square inside it."""
    gan, tx = mlp((2,), latent=2, width=64), optax.adam(config.learning_rate)
    keys = jax.random.split(jax.random.key(config.seed), 2)
    example = Batch(jnp.zeros((2, 2)))
    z = gan.prior(keys[1], 1024)
    return follow(
        folder,
        "discriminator_in_the_plane",
        feed(make_discriminator_step(gan, losses.minimax, tx), circle(3.0), (config.batch_size,)),
        jax.jit(partial(init, gan, optax.identity(), tx, batch=example))(keys[0]),
        lambda theta, psi: bound(gan, theta, psi, z),
        config.num_steps,
    )


def main(config: Config) -> Record:
    """Measures on digits and in the plane; returns the summary."""
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
    for epoch, table in tables.items():
        ends = {n: {"start": x[0], "end": x[-1]} for n, x in table.items() if n != "step"}
        fall = np.log10(ends["saturating"]["start"] / ends["saturating"]["end"])
        digits[str(epoch)] = ends | {"orders_of_magnitude_saturating_fell": float(fall)}
    rows = zip(plane["norm"], plane["bound"], plane["eps"], strict=True)
    held = [(norm, limit) for norm, limit, eps in rows if eps < 1]
    return {
        "digits_by_epochs_of_G": digits,
        "plane": {
            **{n: {"start": plane[n][0], "end": plane[n][-1]} for n in ("norm", "eps")},
            "measured": len(plane["eps"]),
            "measured_where_eps_below_1": len(held),
            "bound_respected": all(norm <= limit for norm, limit in held),
            "smallest_bound_over_norm": min((b / n for n, b in held), default=None),
        },
        "protocol": f"seed {config.seed}, {config.num_steps} updates of D, batch "
        f"{config.batch_size}; digits: the embedded 5000, norms over {config.num_minibatches} x 64 "
        "fixed z, variance over these minibatches; plane: 1024 fixed z, float32",
        "pictures": ["digits.png", "bound.png"],
    }


def _draw_digits(tables: dict[int, dict[str, list[float]]], file: Path) -> None:
    titles = {
        "saturating": "log(1 - D): the gradient vanishes as D learns",
        "non_saturating": "-log D: the gradient grows instead ...",
        "variance": "... and so does its variance",
        "relative_deviation": "Relative to its size the noise stays as it was",
    }
    labels = ("norm of G's gradient", "norm of G's gradient", "trace of covariance")
    figure, grid = chart(2, 2, size=(12, 8), sharex=True)
    for axes, (name, title), label in zip(
        grid.ravel(), titles.items(), (*labels, "standard deviation / norm"), strict=True
    ):
        for epoch, table in tables.items():
            axes.plot(table["step"], table[name], ".-", label=f"{epoch}")
        axes.set(title=title, ylabel=label, yscale="log")
        axes.set_xscale("symlog", linthresh=CHUNK)
        axes.grid(alpha=0.3)
    grid[1, 1].set(yscale="linear", ylim=(0, None))
    grid[0, 0].legend(title="G frozen after epoch", ncols=3, fontsize=9)
    for axes in grid[1]:
        axes.set_xlabel("updates of D, trained from scratch")
    save_chart(figure, file)


def _draw_bound(table: dict[str, list[float]], file: Path) -> None:
    figure, axes = chart(size=(8, 5))
    limit = np.where(np.isfinite(table["bound"]), table["bound"], np.nan)
    axes.loglog(table["step"][1:], table["eps"][1:], "k:", label="eps = max (D + |dD/dx|) on fakes")
    axes.loglog(table["step"][1:], limit[1:], "C1--", label="bound M eps / (1 - eps), if eps < 1")
    axes.loglog(table["step"][1:], table["norm"][1:], "C0", label="|d/dtheta E log(1 - D(G(z)))|")
    axes.set(title="Disjoint supports: as D nears D*, G's gradient must die")
    axes.set(xlabel="updates of D", ylabel="norm of G's gradient; eps")
    axes.legend()
    axes.grid(alpha=0.3)
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
