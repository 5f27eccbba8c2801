"""A command that is stopped from outside resumes. `test_killed` tests this at length."""

import re
import signal
import subprocess

import pytest
from small_runs import config, write_idx
from test_killed import ROOT, command, environment, final, saving, wait_for

STEPS = {"num_steps": 400, "log_every": 10, "checkpoint_every": 20, "sample_every": 100}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns a function that runs a command to its end, or starts it."""
    env = environment(tmp_path_factory.mktemp("compiled"))
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # these few steps are soon made, not so compiled

    def run(settings, start=False):
        options = {"cwd": ROOT, "env": env, "text": True}
        if start:
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            return subprocess.Popen(command(settings), **options, **pipes)
        return subprocess.run(command(settings), **options, capture_output=True, check=True).stdout

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, run):
    """Returns the folder of the data and the end of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    idx = write_idx(folder / "idx")
    settings = config(folder / "run", idx, **STEPS)
    run(settings)
    return idx, final(settings)


def test_killed_in_a_save_and_between_saves_it_ends_with_the_same_bits(run, whole, tmp_path):
    idx, end = whole
    settings = config(tmp_path / "run", idx, **STEPS)
    checkpoints = settings.workdir / "checkpoints"

    def kill(process, moment):
        assert wait_for(process, moment), process.communicate()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL

    kill(run(settings, start=True), lambda: saving(settings.workdir))
    assert not (checkpoints / "400").exists()
    kill(run(settings, start=True), lambda: (checkpoints / "200").exists())
    assert "resuming from step" in run(settings)
    assert final(settings) == end


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside_saves_and_says_how_to_resume(signum, code, run, whole, tmp_path):
    idx, end = whole
    settings = config(tmp_path / "run", idx, **STEPS)
    process = run(settings, start=True)
    metrics = settings.workdir / "metrics.jsonl"
    assert wait_for(process, lambda: metrics.exists() and metrics.stat().st_size)
    process.send_signal(signum)
    _, said = process.communicate()
    assert process.returncode == code
    step = int(said.split(f"stopped by {signum.name} at step ")[1].split(",")[0])
    assert said.rstrip().endswith("saved. The same command resumes.")
    assert "Traceback" not in said
    assert "stopping: the current steps are finished and saved, then the run can be resumed" in said
    assert not re.search("chunk|signal", said)
    assert step == final(settings)[0] < 400
    assert f"resuming from step {step}" in run(settings)
    assert final(settings) == end
