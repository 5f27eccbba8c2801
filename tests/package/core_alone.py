"""Checks an installed wheel without extras: it trains for ten steps, and its command answers.

`nox -s package` runs this file, in an environment that contains the wheel alone.
"""

import faulthandler
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path


def train() -> None:
    """Trains a GAN for ten steps, and draws samples of it."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    import optax

    import gan_jax
    from gan_jax import GAN, Batch, from_linen, losses, penalties, priors

    generator = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(2)])
    discriminator = nn.Sequential([nn.Dense(16), nn.relu, nn.Dense(1), lambda x: x[:, 0]])
    gan = GAN(from_linen(generator), from_linen(discriminator), priors.normal(8))
    tx = optax.adam(1e-3, b1=0.5)
    algorithm = gan_jax.adversarial(
        gan,
        losses.non_saturating,
        generator_tx=tx,
        discriminator_tx=tx,
        penalties=[(penalties.r1, 0.05)],
    )
    step = gan_jax.parallel.shard_step(algorithm.step)
    key = jax.random.key(0)
    state = algorithm.init(key, Batch(jnp.zeros((64, 2))))
    for number in range(10):
        state, metrics = step(state, Batch(gan_jax.data.synthetic.ring().sample(key, 64)[None]))
        assert all(jnp.isfinite(value) for value in metrics.values()), (number, metrics)
    assert algorithm.sample(state, key, 100).shape == (100, 2)
    assert gan_jax.models.MODELS.keys() >= {"mlp", "dcgan"}
    assert gan_jax.theory.F_DIVERGENCES
    assert gan_jax.metrics.energy_test


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed command `gan-jax`."""
    name = str(Path(sys.executable).with_name("gan-jax"))
    return subprocess.run([name, *arguments], capture_output=True, text=True)


def main() -> None:
    faulthandler.dump_traceback_later(300, exit=True)  # a program that compiles for minutes
    environment = Path(sys.prefix).resolve()
    assert Path(str(files("gan_jax"))).resolve().is_relative_to(environment), files("gan_jax")
    assert (files("gan_jax") / "py.typed").is_file()
    for extra in ("tyro", "matplotlib", "scikit-learn"):
        try:
            distribution(extra)
        except PackageNotFoundError:
            continue
        sys.exit(f"{extra} is installed, so this environment says nothing about the core alone")
    train()
    said = command("--help")
    assert said.returncode == 0, said.stderr
    assert "train a GAN on images" in said.stdout
    for name in ("train", "sample", "evaluate"):
        refused = command(name)
        assert refused.returncode == 1, refused
        assert "is not installed: pip install 'gan-jax[experiments]'" in refused.stderr, refused
        assert "Traceback" not in refused.stderr
    version = distribution("gan-jax").version
    assert command("--version").stdout == f"gan-jax {version}\n"
    print(f"gan-jax {version} trains without extras on Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
