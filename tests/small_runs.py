"""Runs small enough for every test: an MLP of 16 units on forty 8x8 images; and short ones."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import signal
import struct

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments import mnist
from gan_jax.errors import UserError
from gan_jax.run import Interrupted, RunFolder
from gan_jax.run import datasets as data

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)


def write_idx(folder, images=IMAGES, labels=None):
    """A folder of one IDX file, or two with labels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        if array is not None:
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (folder / f"train-{name}-ubyte").write_bytes(header + array.tobytes())
    return folder


def config(workdir, idx, **changes):
    """A run of 6 steps that logs, draws and saves every 2, and evaluates nothing."""
    settings = {
        "model": "mlp",
        "width": 16,
        "latent": 4,
        "batch_size": 8,
        "num_steps": 6,
        "log_every": 2,
        "sample_every": 2,
        "checkpoint_every": 2,
        "evaluate_every": 0,
        "parallel": "jit",
        "conditional": "none",
        "data": data.Config(source="idx", dir=idx),
    }
    return mnist.Config(workdir=workdir, **{**settings, **changes})


def flags(settings):
    """The command line that gives these settings."""
    return [
        part
        for name, value in (
            ("workdir", settings.workdir),
            *((name, getattr(settings, name)) for name in ("model", "width", "latent")),
            *((name, getattr(settings, name)) for name in ("batch_size", "num_steps", "parallel")),
            *((f"{what}_every", getattr(settings, f"{what}_every")) for what in _CADENCES),
            ("data.source", settings.data.source),
            ("data.dir", settings.data.dir),
        )
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


_CADENCES = ("log", "sample", "evaluate", "checkpoint")


def digest(state):
    """The bits of a state."""
    sha = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        sha.update(f"{leaf.dtype}{leaf.shape}".encode() + np.asarray(leaf).tobytes())
    return sha.hexdigest()


def snapshot(folder):
    """Everything below a folder: path -> (when it was changed, its contents)."""
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in sorted(folder.rglob("*"))
    }


def assert_kept(experiment, config, summary, **other):
    """A finished short experiment has its pictures, is left alone, and refuses other settings."""
    assert json.loads((config.workdir / "summary.json").read_text()) == summary
    assert all((config.workdir / name).stat().st_size > 5_000 for name in summary["pictures"])
    before = snapshot(config.workdir)
    assert experiment.main(config) == summary
    (name,) = other
    with pytest.raises(UserError, match=rf"config\.{name}: .* there, .* asked for"):
        experiment.main(dataclasses.replace(config, **other))
    assert snapshot(config.workdir) == before


def assert_refused(experiment, config, message):
    """Bad settings end in this message, before anything is written."""
    with pytest.raises(UserError, match=message):
        experiment.main(config)
    assert not config.workdir.exists()


@contextlib.contextmanager
def compiled_in_a_hurry():
    """Spends less on compiling, for runs that compile much and compute little."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


@contextlib.contextmanager
def shared_compilations(folder):
    """Compiles with little effort, and what was compiled before is read back from a folder.

    Most of a small run is compiling.
    """
    names = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_disable_most_optimizations": True,
    }
    before = {name: jax.config.values[name] for name in names}
    compilation_cache.reset_cache()
    try:
        for name, value in names.items():
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


@contextlib.contextmanager
def stopped(after):
    """Sends SIGINT to this process when a run has made so many records: it stops, and saves."""
    log, made = RunFolder.log, []

    def logged(folder, record):
        log(folder, record)
        made.append(record)
        if len(made) == after:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "log", logged)
        yield


TIMES = {"seconds", "steps_per_second", "wall_seconds"}


def contents(folder):
    """All that a run left, without times; of its checkpoints the digests of the last states."""
    found, last = {}, {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "_CHECKPOINT_METADATA":
            sha256 = re.search(r'"sha256": ?"(\w+)"', path.read_text())[1]
            home = str(path.parents[1].relative_to(folder))
            last[home] = max(last.get(home, (0, "")), (int(path.parent.name), sha256))
        elif path.name in ("metrics.jsonl", "summary.json"):
            found[name] = re.sub(rf'"({"|".join(TIMES)})": [^,}}]+', "", path.read_text())
        elif "checkpoints" not in path.parts and path.name not in (".lock", "config.json"):
            found[name] = path.read_bytes()
    assert last
    return found | last


def assert_resumes_exactly(experiment, config, folder, after):
    """A run that is interrupted after so many records leaves what an undisturbed one does."""
    whole, parts = (dataclasses.replace(config, workdir=folder / name) for name in ("a", "b"))
    with shared_compilations(folder / "compiled"):
        experiment.main(whole)
        with pytest.raises(Interrupted), stopped(after):
            experiment.main(parts)
        assert not (parts.workdir / "summary.json").exists()
        experiment.main(parts)
    made, expected = contents(parts.workdir), contents(whole.workdir)
    assert made.keys() == expected.keys()
    assert [name for name in made if made[name] != expected[name]] == []
