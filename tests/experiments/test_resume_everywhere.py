"""Every experiment that trains: after an interruption it leaves the same files as without."""

import numpy as np
import pytest
from small_runs import assert_resumes_exactly, write_idx

from experiments import (
    dirac_gan,
    gaussian_1d,
    mixture_2d,
    mixture_table,
    mnist,
    optimal_discriminator,
    stacked_mnist,
    synchronisation,
    vanishing_gradient,
)
from gan_jax.run import datasets

SMALL = {"batch_size": 4, "seeds": 2}
PLAIN = {**SMALL, "penalty": (), "noise": 0.0, "num_samples": 20}
MLP = {"generator_depth": 1, "discriminator_depth": 1, "width": 4, "draws": 1}
DIGITS = {"counts": 3, "latent": 2, "discriminator_width": 2}
EMBEDDED = datasets.Config(source="embedded")

CASES = {
    "on the line of steps": (dirac_gan, {"num_steps": 9}, 4),
    "at a step that nothing else is due at": (
        mixture_2d,
        {"num_steps": 201, "frames": 3, **PLAIN, **MLP},
        2,  # records, after 50 and 67 steps: it stops at 100
    ),
    "in the second of two rows": (
        mixture_table,
        {"ways": ("plain", "usual"), "data": ("ring",), "num_steps": 101, "num_samples": 20},
        4,
    ),
    "in the training that follows the warm-up": (
        gaussian_1d,
        {"n_critic": (2,), "generator_lr": (1e-3,), "num_updates": 33, "warmup": 3, "frames": 3},
        2,
    ),
    "in the second of two cases": (
        optimal_discriminator,
        {"num_steps": 9, "record_every": 3, "num_samples": 10, "batch_size": 4},
        9,
    ),
    "while D is frozen": (
        synchronisation,
        {"generator_steps": (2,), "num_cycles": 7, "freeze_after": 3, "frozen_steps": 61},
        10,
    ),
    "while D is trained against the first G": (
        vanishing_gradient,
        {"epochs": (1, 2), "num_steps": 30, "num_minibatches": 2, "batch_size": 500},
        2,
    ),
    "between two counts": (stacked_mnist, {"num_steps": 3, **PLAIN, **DIGITS, "data": EMBEDDED}, 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("when", CASES)
def test_an_interrupted_experiment_resumes_exactly(when, tmp_path, monkeypatch):
    experiment, settings, after = CASES[when]
    fields = experiment.Config.__dataclass_fields__
    small = {name: value for name, value in {**SMALL, "width": 4}.items() if name in fields}
    cases = getattr(experiment, "CASES", {})
    names = ("shifted Gaussians", "three outcomes")
    if cases:
        monkeypatch.setattr(experiment, "CASES", {name: cases[name] for name in names})
    assert_resumes_exactly(experiment, experiment.Config(**{**small, **settings}), tmp_path, after)


CONDITIONAL = {"conditional": "acgan", "augment": "shift"}
WGAN = {"loss": "wasserstein", "r1": 0.0, "clip_weights": 0.01, "n_critic": 2}
SCHEDULES = {"r1": "auto", "final_lr_share": 0.1, "final_penalty_share": 0.2}


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {**CONDITIONAL, **SCHEDULES},
        pytest.param(WGAN, marks=pytest.mark.slow),
        pytest.param({**WGAN, "clip_weights": None, "dragan": 10.0}, marks=pytest.mark.slow),
    ],
)
def test_so_does_the_main_job(more, tmp_path):
    settings = {
        "num_steps": 16,
        "sample_every": 8,
        "checkpoint_every": 8,
        "log_every": 4,
        "evaluate_every": 8,
    }
    labels = np.arange(40, dtype=np.uint8) % 3
    data = datasets.Config(source="idx", dir=write_idx(tmp_path / "idx", labels=labels))
    shape = {"model": "mlp", "latent": 4, "width": 4, "batch_size": 4}
    config = mnist.Config(data=data, parallel="jit", **settings, **shape, **more)
    assert_resumes_exactly(mnist, config, tmp_path, 2)
