"""A small run of the table of Fashion-MNIST."""

import dataclasses
import json

import numpy as np
import pytest
from small_runs import assert_refused, compiled_in_a_hurry, write_idx

from experiments import benchmark_fashion_mnist as benchmark
from experiments import image_ways
from experiments.image_ways import Way
from gan_jax.metrics.extractors import EXTRACTORS
from gan_jax.run import datasets

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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ways": ("r2",)}, "--ways must be some of plain, classes, got r2"),
        ({"test": None}, "give the 10,000 test images: --test"),
        ({"seeds": 0}, "--seeds must be at least 1"),
    ],
)
def test_settings_that_cannot_be(changes, message, settings):
    changes = {"num_samples": 2000, **changes}
    assert_refused(benchmark, dataclasses.replace(settings, **changes), message)
