"""The smallest GAN there is, and what makes it converge (Mescheder, Geiger and Nowozin 2018).

Data at 0, the generator at theta, D(x) = sigmoid(psi x): two scalars chase each other around the
equilibrium (0, 0). The losses and penalties are the library's own; the eigenvalues of the Jacobian
of their vector field are set beside the closed forms, and trajectories beside both. Writes to
--workdir: trajectories.png, radii.png and summary.json. The same command resumes a run that was
stopped.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gan_jax import GAN, Batch, Network, TrainState, init, losses, penalties, run
from gan_jax.algorithms.objectives import player_losses
from gan_jax.errors import UserError
from gan_jax.run import cli
from gan_jax.run.folder import Record, RunFolder
from gan_jax.run.plots import chart, save_chart
from gan_jax.theory import (
    consensus,
    dirac_eigenvalues,
    game_eigenvalues,
    local_convergence,
    vector_field,
)
from gan_jax.theory.games import Losses
from gan_jax.theory.updates import Players, Update, alternating, simultaneous
from gan_jax.types import AdversarialLoss, Array, Metrics, Penalty


@dataclasses.dataclass(frozen=True)
class Config:
    """Where to start, how far to step, and how strong the cures are."""

    workdir: Path = Path("runs/dirac_gan")
    """Where the pictures and the figures go."""
    num_steps: int = 500
    """Steps of both players."""
    step_size: float = 0.1
    """The learning rate of both."""
    theta: float = 1.0
    """Where the generator starts."""
    psi: float = 1.0
    """Where the discriminator's slope starts."""
    gamma: float = 1.0
    """Weight of R1, R2 and WGAN-GP (gamma/2 times each) and of consensus optimisation."""
    sigma: float = 1.0
    """Standard deviation of the instance noise."""


class Method(NamedTuple):
    """One way to train the Dirac-GAN, in the library's own terms."""

    title: str
    loss: AdversarialLoss
    penalty: Penalty | None = None
    noisy: bool = False
    consensus: bool = False
    converges: bool = False  # in the general case of table 1 of the paper


METHODS = {
    "minimax": Method("GAN, minimax", losses.minimax),
    "non_saturating": Method("GAN, non-saturating", losses.non_saturating),
    "wasserstein": Method("WGAN", losses.wasserstein),
    "wgan_gp": Method("WGAN-GP", losses.wasserstein, penalties.gradient_penalty),
    "instance_noise": Method("instance noise", losses.minimax, noisy=True, converges=True),
    "consensus": Method("consensus", losses.minimax, consensus=True, converges=True),
    "r1": Method("R1", losses.minimax, penalties.r1, converges=True),
    "r2": Method("R2", losses.minimax, penalties.r2, converges=True),
}

UPDATES: dict[str, Callable[[Losses, float], Update]] = {
    "simultaneous": simultaneous,
    "alternating": alternating,
}

NOISE = np.sqrt(3.0) * np.array([-1.0, 0.0, 0.0, 0.0, 0.0, 1.0])
"""Gauss and Hermite's three points with their weights, 1/6, 2/3, 1/6, as a batch of six: the mean
over it is that over N(0, 1), exact to the fifth degree."""


def build(sigma: float, theta: float, psi: float) -> tuple[GAN, TrainState, Batch]:
    """The GAN of two scalars, at a point, and its data; samples and data with noise of `sigma`."""

    def generate(params: Array, state: Any, z: Array, *_: Any, **__: Any) -> tuple[Array, Any]:
        return params + sigma * jnp.asarray(NOISE)[: z.shape[0], None], state

    def discriminate(params: Array, state: Any, x: Array, *_: Any, **__: Any) -> tuple[Array, Any]:
        return params * x[:, 0], state

    gan = GAN(
        Network(lambda *_: (jnp.asarray(theta, float), {}), generate),
        Network(lambda *_: (jnp.asarray(psi, float), {}), discriminate),
        lambda key, num: jnp.zeros((num, 1)),
    )
    batch = Batch(sigma * jnp.asarray(NOISE)[:, None])
    state = init(gan, optax.identity(), optax.identity(), jax.random.key(0), batch)
    return gan, state, batch


def library_game(name: str, config: Config) -> Losses:
    """The two losses of a method as functions of theta and psi, from the library's objectives."""
    method = METHODS[name]
    gan, state, batch = build(config.sigma if method.noisy else 0.0, config.theta, config.psi)
    weighted = [(method.penalty, config.gamma / 2)] if method.penalty else []
    game = player_losses(gan, method.loss, state, batch, state.key, penalties=weighted)
    return consensus(game, config.gamma) if method.consensus else game


def trajectories(
    updates: dict[str, Update], start: Players, num_steps: int, folder: RunFolder
) -> dict[str, np.ndarray]:
    """[num_steps + 1, 2] for each way to step: theta and psi from the start on."""

    def step(points: dict[str, Players], _: None) -> tuple[dict[str, Players], Metrics]:
        points = {name: update(points[name]) for name, update in updates.items()}
        return points, {
            f"{name} {scalar}": value
            for name, point in points.items()
            for scalar, value in zip(("theta", "psi"), point, strict=True)
        }

    run.train(
        step,
        jax.tree.map(jnp.copy, dict.fromkeys(updates, start)),
        folder=folder,
        num_steps=num_steps,
        chunk_length=1,  # every point is recorded
        layout="jit",
        words=lambda record: "",
    )
    records = folder.metrics()
    return {
        name: np.array(
            [start, *([record[f"{name} {x}"] for x in ("theta", "psi")] for record in records)]
        )
        for name in updates
    }


def check(config: Config) -> None:
    """Raises `UserError` for values that no run could use."""
    cli.check_at_least(config, num_steps=1, gamma=0, sigma=0)
    cli.check_above_zero(config, "step_size")
    if not 0 < np.hypot(config.theta, config.psi) < float("inf"):
        raise UserError("--theta and --psi both 0 is the equilibrium: start somewhere else")


def main(config: Config) -> Record:
    """Eigenvalues and trajectories of every method, in double precision."""
    check(config)

    def work(folder: RunFolder) -> Record:
        start = (jnp.asarray(config.theta, float), jnp.asarray(config.psi, float))
        games = {name: library_game(name, config) for name in METHODS}
        updates = {
            f"{name} {kind}": make(games[name], config.step_size)
            for name in METHODS
            for kind, make in UPDATES.items()
        }
        points = trajectories(updates, start, config.num_steps, folder)
        paths = {name: {kind: points[f"{name} {kind}"] for kind in UPDATES} for name in METHODS}
        table = {}
        for name in METHODS:
            table[name] = {
                **_linear(name, games[name], config),
                "radius_at_end": {
                    kind: float(np.hypot(*path[-1])) for kind, path in paths[name].items()
                },
                "converges_in_the_paper": METHODS[name].converges,
            }
        _draw_trajectories(folder.path / "trajectories.png", games, paths, table)
        _draw_radii(folder.path / "radii.png", paths)
        return {
            "methods": table,
            "radius_at_start": float(np.hypot(config.theta, config.psi)),
            "pictures": ["trajectories.png", "radii.png"],
        }

    with jax.enable_x64(True):
        return cli.record("dirac_gan", config, work)


def _linear(name: str, game: Losses, config: Config) -> Record:
    """What the linear approximation at the equilibrium says, through the library's own losses."""
    if name == "wgan_gp":  # the field jumps where psi changes sign
        return {"eigenvalues": None, "closed_form": None, "verdict": "no Jacobian"}
    made = game_eigenvalues(game, jnp.zeros(()), jnp.zeros(()))
    strength = config.sigma if METHODS[name].noisy else config.gamma
    return {
        "eigenvalues": [[value.real, value.imag] for value in made],
        "closed_form": [[v.real, v.imag] for v in dirac_eigenvalues(name, strength)],
        "verdict": local_convergence(made),
    }


COLORS = {"simultaneous": "tab:blue", "alternating": "tab:orange"}


def _draw_trajectories(
    file: Path, games: dict[str, Losses], paths: dict[str, Any], table: dict[str, Any]
) -> None:
    figure, panels = chart(2, 4, size=(14, 7.4), sharex=True, sharey=True)
    axis = jnp.linspace(-2.1, 2.1, 15)
    theta, psi = (grid.ravel() for grid in jnp.meshgrid(axis, axis))
    for axes, (name, method) in zip(panels.flat, METHODS.items(), strict=True):
        field = np.stack(jax.jit(jax.vmap(partial(vector_field, games[name])))(theta, psi))
        length = np.maximum(np.hypot(*field), 1e-9)
        axes.quiver(theta, psi, *(field / length), color="0.75", width=0.004)
        for kind, path in paths[name].items():
            axes.plot(*path.T, lw=0.9, color=COLORS[kind], label=kind)
            axes.plot(*path[-1], "o", ms=6, color=COLORS[kind], mec="white", zorder=3)
        axes.plot(*paths[name]["alternating"][0], "s", ms=6, color="black", label="start")
        axes.plot(0, 0, "+", ms=12, mew=1.5, color="black", label="equilibrium")
        values = table[name]["eigenvalues"]
        shown = "no Jacobian at 0" if values is None else _pair(values)
        axes.set_title(f"{method.title}\n{shown}", fontsize=10)
        axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
    for axes in panels[:, 0]:
        axes.set_ylabel("psi, the slope of D")
    for axes in panels[-1]:
        axes.set_xlabel("theta, where G puts its mass")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("The Dirac-GAN: data at 0. Dots: where each way of stepping ends")
    save_chart(figure, file)


def _pair(values: list[list[float]]) -> str:
    (real, imag), (other, _) = values
    if abs(imag) < 1e-6 and abs(real - other) > 1e-6:
        return f"eigenvalues {real:.2f}, {other:.2f}"
    turn = f"± {abs(imag):.2f}i" if abs(imag) > 1e-6 else ""
    return f"eigenvalues {real:.2f} {turn}" if abs(real) > 1e-6 else f"eigenvalues {turn}"


def _draw_radii(file: Path, paths: dict[str, Any]) -> None:
    figure, panels = chart(1, 2, size=(11, 4.6), sharey=True)
    for axes, kind in zip(panels, UPDATES, strict=True):
        for number, (name, method) in enumerate(METHODS.items()):
            radius = np.maximum(np.hypot(*paths[name][kind].T), 1e-12)
            style = "-" if method.converges else "--"
            width = 4 if name == "r1" else 1.5  # R2 lies on it: D is linear
            axes.semilogy(radius, style, lw=width, color=f"C{number}", label=method.title)
        axes.set(title=f"{kind} steps", xlabel="step", ylim=(1e-7, 50))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("distance to the equilibrium")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(
        "Solid: table 1 of Mescheder et al. 2018 says it converges. Dashed: it does not"
    )
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
