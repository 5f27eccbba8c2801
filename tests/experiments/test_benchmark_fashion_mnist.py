"""A small run of the table of Fashion-MNIST."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from small_runs import assert_refused, compiled_in_a_hurry, write_idx

from experiments import benchmark_fashion_mnist as benchmark
from experiments import image_ways
from experiments.image_ways import Way
from gan_jax.metrics.extractors import EXTRACTORS
from gan_jax.run import datasets
from gan_jax.run.commands import train

X = np.random.default_rng(0).integers(0, 256, (128, 28, 28), dtype=np.uint8)
MLP = {"model": "mlp", "width": 8, "latent": 4, "batch_size": 8}
SMALL = {
    "plain": Way("plain", MLP | {"conditional": "none"}),
    "classes": Way("with classes", MLP | {"conditional": "projection"}, cost=2.0),
}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "WAYS", SMALL)
    write_idx(tmp_path / "idx", X, (np.arange(128) % 10).astype(np.uint8))
    data = datasets.Config(name="fashion_mnist", source="idx", dir=tmp_path / "idx")
    return benchmark.Config(
        workdir=tmp_path / "run",
        ways=tuple(SMALL),
        num_steps=4,
        seeds=1,
        num_samples=100,
        data=data,
        test=tmp_path / "idx" / "train-images-idx3-ubyte",
    )


@pytest.mark.slow
def test_a_small_table(settings, monkeypatch):
    monkeypatch.setattr(image_ways, "LEAST", 100)
    with compiled_in_a_hurry():
        summary = benchmark.main(settings)
    found = summary["figures"]
    assert list(found) == ["real", "plain", "classes"]
    (real,), (plain,), (classes,) = (found[name]["seeds"] for name in found)
    assert real["distance"] < plain["distance"]
    assert plain["agreement"] is None
    assert 0 <= classes["agreement"] <= 1
    assert (plain["updates"], classes["updates"]) == (4, 2)
    table = (settings.workdir / "table.md").read_text()
    assert "| with classes |" in table
    assert EXTRACTORS["fashion"].name in table
    assert (settings.workdir / "samples.png").stat().st_size > 1000
    assert json.loads((settings.workdir / "summary.json").read_text())["held_out"] == 128

    (settings.workdir / "summary.json").unlink()  # as if the run had been stopped
    monkeypatch.setattr(train, "main", None)
    assert benchmark.main(settings)["figures"] == found
    assert (settings.workdir / "table.md").read_text() == table


def test_the_losses_have_one_network_and_no_other_limit_on_the_slope():
    names = list(benchmark.WAYS)
    losses, others = names[:6], names[6:]
    assert losses == ["minimax", "non_saturating", "least_squares", "wgan", "wgan_gp", "dragan"]
    assert others == ["dcgan", "r1", "clusters", "classes"]
    made = [
        image_ways.settings(benchmark.Config(), benchmark.WAYS[name], 0, Path()) for name in names
    ]
    assert [each.discriminator_norm for each in made] == [name == "dcgan" for name in names]
    shared = ("model", "width", "latent", "batch_size", "ema_decay")
    assert len({tuple(getattr(each, name) for name in shared) for each in made}) == 1
    for each in made[:6]:
        train.check(each)
        assert each.r1 == 0
    assert [each.clip_weights for each in made[:6]] == [None, None, None, 0.01, None, None]
    assert [each.gradient_penalty for each in made[:6]] == [0, 0, 0, 0, 10, 0]
    assert [each.dragan for each in made[:6]] == [0, 0, 0, 0, 0, 10]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": ("r2",)}, "--ways r2 is none of plain, classes"),
        ({"test": None}, "give the 10,000 test images: --test"),
        ({"seeds": 0}, "--seeds must be at least 1"),
    ],
)
def test_settings_that_cannot_be(changes, message, settings):
    changes = {"num_samples": 2000, **changes}
    assert_refused(benchmark, dataclasses.replace(settings, **changes), message)
