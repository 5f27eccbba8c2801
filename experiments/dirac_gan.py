"""Dirac-GAN: which training methods converge (Mescheder, Geiger and Nowozin 2018).

This GAN has only two parameters, theta and psi. All data are at 0, the generator's samples are at
theta, and D(x) = sigmoid(psi x). The experiment uses each of the library's losses and penalties. It
compares the eigenvalues of the game's Jacobian at the equilibrium (0, 0) with their closed forms,
and draws the paths of theta and psi in training. It writes trajectories.png, radii.png and
summary.json to --workdir. The same command resumes a run that was stopped.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.shared import bare
from gan_jax import GAN, Batch, TrainState, init, losses, penalties, run, theory
from gan_jax.algorithms.objectives import player_losses
from gan_jax.errors import UserError
from gan_jax.run import cli
from gan_jax.run.folder import Record, RunFolder
from gan_jax.run.plots import chart, save_chart
from gan_jax.theory.games import Losses
from gan_jax.theory.updates import Players, Update, alternating, simultaneous
from gan_jax.types import AdversarialLoss, Metrics, Penalty


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the start, the steps and the regularisers."""

    workdir: Path = Path("runs/dirac_gan")
    """Folder of the run."""
    num_steps: int = 500
    """Updates of both players."""
    step_size: float = 0.1
    """Learning rate of both players."""
    theta: float = 1.0
    """Initial position of the generator."""
    psi: float = 1.0
    """Initial slope of the discriminator."""
    gamma: float = 1.0
    """Weight of consensus optimisation. The weight of R1, R2 and WGAN-GP is half of gamma."""
    sigma: float = 1.0
    """Standard deviation of the instance noise."""


class Method(NamedTuple):
    """One way to train the Dirac-GAN.

    Attributes:
      title: the name in the pictures.
      loss, penalty: functions of the library.
      noisy: whether instance noise is added.
      consensus: whether consensus optimisation is used.
      converges: whether the method converges in general, according to table 1 of the paper.
    """

    title: str
    loss: AdversarialLoss
    penalty: Penalty | None = None
    noisy: bool = False
    consensus: bool = False
    converges: bool = False


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
"""Three-point Gauss-Hermite quadrature as a batch of six values. The weights 1/6, 2/3 and 1/6 are
the shares of the three points: they occur once, four times and once in the batch. For polynomials
up to the fifth degree, the mean over this batch is exactly the mean over N(0, 1)."""


def build(sigma: float, theta: float, psi: float) -> tuple[GAN, TrainState, Batch]:
    """Returns the GAN, its state and its data. `sigma` is the standard deviation of the noise."""
    noise = sigma * jnp.asarray(NOISE)[:, None]
    gan = GAN(
        bare(jnp.asarray(theta, float), lambda theta, z: theta + noise[: len(z)]),
        bare(jnp.asarray(psi, float), lambda psi, x: psi * x[:, 0]),
        lambda key, num: jnp.zeros((num, 1)),
    )
    batch = Batch(noise)
    state = init(gan, optax.identity(), optax.identity(), jax.random.key(0), batch)
    return gan, state, batch


def library_game(name: str, config: Config) -> Losses:
    """Returns the library's losses of D and G as functions of theta and psi."""
    method = METHODS[name]
    gan, state, batch = build(config.sigma if method.noisy else 0.0, config.theta, config.psi)
    weighted = [(method.penalty, config.gamma / 2)] if method.penalty else []
    game = player_losses(gan, method.loss, state, batch, state.key, penalties=weighted)
    return theory.consensus(game, config.gamma) if method.consensus else game


def trajectories(
    updates: dict[str, Update], config: Config, folder: RunFolder
) -> dict[str, np.ndarray]:
    """Returns the path of (theta, psi) for each method: arrays [num_steps + 1, 2]."""

    def step(points: dict[str, Players], _: None) -> tuple[dict[str, Players], Metrics]:
        points = {name: update(points[name]) for name, update in updates.items()}
        metrics = {f"{name} theta": theta for name, (theta, _) in points.items()}
        return points, metrics | {f"{name} psi": psi for name, (_, psi) in points.items()}

    start = config.theta, config.psi
    run.train(
        step,
        {name: tuple(jnp.asarray(value, float) for value in start) for name in updates},
        folder=folder,
        num_steps=config.num_steps,
        chunk_length=1,  # every point is recorded
        layout="jit",
        words=lambda record: "",
    )
    records = folder.metrics()
    return {
        name: np.array([start, *((at[f"{name} theta"], at[f"{name} psi"]) for at in records)])
        for name in updates
    }


def check(config: Config) -> None:
    """Raises `UserError` for an invalid setting."""
    cli.check_at_least(config, num_steps=1, gamma=0, sigma=0)
    cli.check_above_zero(config, "step_size")
    if not 0 < np.hypot(config.theta, config.psi) < float("inf"):
        raise UserError("--theta and --psi both 0 is the equilibrium: start somewhere else")


def main(config: Config) -> Record:
    """Computes the eigenvalues and trajectories of every method, in double precision."""
    check(config)
    with jax.enable_x64(True):
        return cli.record("dirac_gan", config, partial(_work, config))


def _work(config: Config, folder: RunFolder) -> Record:
    games = {name: library_game(name, config) for name in METHODS}
    updates = {
        f"{name} {kind}": make(game, config.step_size)
        for name, game in games.items()
        for kind, make in UPDATES.items()
    }
    paths = trajectories(updates, config, folder)
    table: Record = {
        name: {
            **_linear(name, game, config),
            "radius_at_end": {
                kind: float(np.hypot(*paths[f"{name} {kind}"][-1])) for kind in UPDATES
            },
            "converges_in_the_paper": METHODS[name].converges,
        }
        for name, game in games.items()
    }
    _draw_trajectories(folder.path / "trajectories.png", games, paths, table)
    _draw_radii(folder.path / "radii.png", paths)
    return {
        "methods": table,
        "radius_at_start": float(np.hypot(config.theta, config.psi)),
        "pictures": ["trajectories.png", "radii.png"],
    }


def _linear(name: str, game: Losses, config: Config) -> Record:
    """Returns the eigenvalues at the equilibrium, from the library's losses and in closed form."""
    if name == "wgan_gp":  # the field jumps where psi changes sign
        return {"eigenvalues": None, "closed_form": None, "verdict": "no Jacobian"}
    found = theory.game_eigenvalues(game, jnp.zeros(()), jnp.zeros(()))
    strength = config.sigma if METHODS[name].noisy else config.gamma
    return {
        "eigenvalues": [[value.real, value.imag] for value in found],
        "closed_form": [[v.real, v.imag] for v in theory.dirac_eigenvalues(name, strength)],
        "verdict": theory.local_convergence(found),
    }


def _draw_trajectories(
    file: Path, games: dict[str, Losses], paths: dict[str, np.ndarray], table: Record
) -> None:
    figure, panels = chart(2, 4, size=(14, 7.4), sharex=True, sharey=True)
    axis = jnp.linspace(-2.1, 2.1, 15)
    lattice = [grid.ravel() for grid in jnp.meshgrid(axis, axis)]
    for axes, (name, method) in zip(panels.flat, METHODS.items(), strict=True):
        field = np.stack(jax.jit(jax.vmap(partial(theory.vector_field, games[name])))(*lattice))
        length = np.maximum(np.hypot(*field), 1e-9)
        axes.quiver(*lattice, *(field / length), color="0.75", width=0.004)
        for kind, color in zip(UPDATES, ("tab:blue", "tab:orange"), strict=True):
            path = paths[f"{name} {kind}"]
            axes.plot(*path.T, lw=0.9, color=color, label=kind)
            axes.plot(*path[-1], "o", ms=6, color=color, mec="white", zorder=3)
        axes.plot(*path[0], "s", ms=6, color="black", label="start")
        axes.plot(0, 0, "+", ms=12, mew=1.5, color="black", label="equilibrium")
        axes.set_title(f"{method.title}\n{_words(table[name]['eigenvalues'])}", fontsize=10)
        axes.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal")
    for axes in panels[:, 0]:
        axes.set_ylabel("psi, the slope of D")
    for axes in panels[-1]:
        axes.set_xlabel("theta, the position of G")
    legend = panels[0, 0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("The Dirac-GAN: the data are at 0; dots mark the end of each trajectory")
    save_chart(figure, file)


def _words(eigenvalues: list[list[float]] | None) -> str:
    if eigenvalues is None:
        return "no Jacobian at 0"
    (real, imag), (other, _) = eigenvalues
    if abs(imag) < 1e-6 and abs(real - other) > 1e-6:
        return f"eigenvalues {real:.2f}, {other:.2f}"
    turn = f"± {abs(imag):.2f}i" if abs(imag) > 1e-6 else ""
    return f"eigenvalues {real:.2f} {turn}" if abs(real) > 1e-6 else f"eigenvalues {turn}"


def _draw_radii(file: Path, paths: dict[str, np.ndarray]) -> None:
    figure, panels = chart(1, 2, size=(11, 4.6), sharey=True)
    for axes, kind in zip(panels, UPDATES, strict=True):
        for number, (name, method) in enumerate(METHODS.items()):
            radius = np.maximum(np.hypot(*paths[f"{name} {kind}"].T), 1e-12)
            style = "-" if method.converges else "--"
            width = 4 if name == "r1" else 1.5  # D is linear, so R2's curve covers R1's
            axes.semilogy(radius, style, lw=width, color=f"C{number}", label=method.title)
        axes.set(title=f"{kind} steps", xlabel="step", ylim=(1e-7, 50))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("distance to the equilibrium")
    legend = panels[0].get_legend_handles_labels()
    figure.legend(*legend, loc="outside right center", frameon=False)
    figure.suptitle("Solid: converges by table 1 of Mescheder et al. 2018. Dashed: does not")
    save_chart(figure, file)


if __name__ == "__main__":
    cli.run(main, Config, __doc__ or "")
