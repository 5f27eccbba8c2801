"""A run killed at any moment and begun again ends with the bits of an undisturbed run."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_runs import config, digest, flags, write_idx

from experiments import mnist
from gan_jax.run.checkpoint import Checkpoints

ROOT = Path(__file__).parents[2]
KILLS = 20


def command(settings):
    return [sys.executable, "-m", "experiments.mnist", *flags(settings)]


def environment(cache):
    """Returns an environment with one device, like most users', that keeps compiled programs."""
    kept = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    return {
        **kept,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def final(settings):
    """Returns the step and the digest of a finished run's last state."""
    _, template, _ = mnist.build(settings, None, (8, 8, 1))
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
