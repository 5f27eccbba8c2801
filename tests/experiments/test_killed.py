"""A run killed at any moment and begun again ends with the bits of an undisturbed run."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from small_runs import config, contents, digest, flags, write_idx

from experiments import mnist
from gan_jax.run.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
KILLS = 20


def command(settings, *more):
    return [sys.executable, "-m", "experiments.mnist", *flags(settings), *more]


def environment(cache):
    """Returns an environment with one device, like most users', that keeps compiled programs."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    return {
        **kept,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def final(settings, num_classes=10):
    """Returns the step and the digest of a finished run's last state."""
    _, template, _ = mnist.build(settings, None, (8, 8, 1), num_classes)
    checkpoints = Checkpoints(settings.workdir / "checkpoints", keep=None)
    step, state = checkpoints.restore(template)
    checkpoints.close()
    return step, digest(state)


def saving(folder):
    return any("tmp" in path.name for path in folder.glob("checkpoints/*"))


def newest(folder):
    """Returns the step of a run's newest checkpoint, 0 without any."""
    names = [path.name for path in folder.glob("checkpoints/*")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def wait_for(process, condition, seconds=120.0):
    """Returns whether the condition came true while the process ran."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.0005)
    return False


@pytest.mark.slow
def test_killed_at_twenty_moments_the_run_ends_with_the_same_bits(tmp_path):
    idx, rng = write_idx(tmp_path / "idx"), random.Random(0)
    schedule = {"num_steps": 3000, "log_every": 10, "checkpoint_every": 20, "sample_every": 200}
    whole = config(tmp_path / "whole", idx, **schedule)
    killed = config(tmp_path / "killed", idx, **schedule)
    env = environment(tmp_path / "cache")
    undisturbed = subprocess.Popen(command(whole), cwd=ROOT, env=env, stdout=subprocess.DEVNULL)

    in_a_save, steps = 0, []
    for kill in range(KILLS):
        process = subprocess.Popen(
            command(killed),
            cwd=ROOT,
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        size = [(killed.workdir / "metrics.jsonl").stat().st_size if kill else 0]
        before, moment = newest(killed.workdir), rng.uniform(0.0, 0.5)
        if kill == 1:  # while it imports and compiles
            time.sleep(6 * moment)
        else:
            assert wait_for(
                process,
                lambda size=size: (
                    (killed.workdir / "metrics.jsonl").exists()
                    and (killed.workdir / "metrics.jsonl").stat().st_size != size[0]
                ),
            ), process.communicate()[1]
            if kill % 4 > 1:  # however slow the machine is, the run goes on
                assert wait_for(process, lambda before=before: newest(killed.workdir) > before), (
                    process.communicate()[1]
                )
            time.sleep(moment)
            if kill % 2:
                assert wait_for(process, lambda: saving(killed.workdir))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
        in_a_save += saving(killed.workdir)
        steps.append(newest(killed.workdir))

    last = subprocess.run(
        command(killed), cwd=ROOT, env=env, check=True, capture_output=True, text=True
    )
    assert "resuming from step" in last.stdout
    assert undisturbed.wait() == 0
    print(f"{KILLS} kills, {in_a_save} within a save; newest checkpoints {steps}")
    assert in_a_save >= 5
    assert steps[-1] > 0
    assert final(killed) == final(whole) == (3000, final(whole)[1])


TOGETHER = {
    "conditional": "projection",
    "augment": "ada",
    "r1": "auto",
    "final_lr_share": 0.0,
    "final_b2": 0.999,
    "final_penalty_share": 0.5,
}


@pytest.mark.slow
def test_killed_with_classes_ada_and_schedules_it_leaves_what_an_undisturbed_run_does(tmp_path):
    idx = write_idx(tmp_path / "idx", labels=np.arange(40, dtype=np.uint8) % 3)
    every = {"num_steps": 200, "log_every": 10, "checkpoint_every": 20, "sample_every": 100}
    whole, killed = (
        config(tmp_path / name, idx, **every, **TOGETHER) for name in ("whole", "killed")
    )
    more = [
        part
        for name, value in TOGETHER.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    env = environment(tmp_path / "cache") | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    options = {"cwd": ROOT, "env": env, "text": True}
    subprocess.run(command(whole, *more), **options, check=True, capture_output=True)

    process = subprocess.Popen(
        command(killed, *more), **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert wait_for(process, lambda: newest(killed.workdir) >= 40), process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert newest(killed.workdir) < 200
    last = subprocess.run(command(killed, *more), **options, check=True, capture_output=True)
    assert "resuming from step" in last.stdout

    assert final(killed, 3) == final(whole, 3) == (200, final(whole, 3)[1])
    assert contents(killed.workdir) == contents(whole.workdir)
    lines = (killed.workdir / "metrics.jsonl").read_text().splitlines()
    p = [json.loads(line)["augmentation_p"] for line in lines]
    assert p[-1] > 0
    assert len(set(p)) > 5  # ADA moves p by feedback, before the kill and after it
