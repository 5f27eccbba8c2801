"""Checkpoints: exact, few, verified, and never in the way."""

import errno
import resource
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import digest, snapshot

from gan_jax.checkpoint import CheckpointError, Checkpoints


def make_state(seed):
    keys = jax.random.split(jax.random.key(seed), 4)
    return {
        "key": keys[0],
        "half": jax.random.normal(keys[1], (3, 5), jnp.bfloat16),
        "single": jax.random.normal(keys[2], (300, 7)),
        "count": jnp.int32(seed),
        "nested": (jax.random.bits(keys[3], (4,), jnp.uint8), [jnp.array([True, False])], ()),
    }


def save(folder, *seeds, keep=3):
    checkpoints = Checkpoints(folder, keep=keep)
    for seed in seeds:
        checkpoints.save(seed, make_state(seed))
    checkpoints.close()
    return folder


def restore(folder, keep=3):
    """(step or None, the bits, what was announced)."""
    said = []
    checkpoints = Checkpoints(folder, keep=keep)
    try:
        restored = checkpoints.restore(jax.eval_shape(make_state, 0), said.append)
    finally:
        checkpoints.close()
    return (None, None, said) if restored is None else (restored[0], digest(restored[1]), said)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return save(tmp_path_factory.mktemp("two") / "checkpoints", 1, 2)


@pytest.fixture
def copy(two, tmp_path):
    return shutil.copytree(two, tmp_path / "checkpoints")


def test_a_state_comes_back_as_it_went(tmp_path):
    state = make_state(5)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(5, state)
    step, back = checkpoints.restore(jax.eval_shape(make_state, 0))
    checkpoints.close()
    assert step == 5
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert [leaf.dtype for leaf in jax.tree.leaves(back)] == [
        leaf.dtype for leaf in jax.tree.leaves(state)
    ]
    assert digest(back) == digest(state)
    assert jax.random.normal(back["key"]) == jax.random.normal(state["key"])


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = {"x": np.zeros(1_000_000, np.float32)}
    checkpoints.save(1, state)
    state["x"][:] = 1
    _, back = checkpoints.restore({"x": jax.ShapeDtypeStruct((1_000_000,), jnp.float32)})
    checkpoints.close()
    assert not back["x"].any()


def test_the_newest_few_are_kept(tmp_path):
    folder = save(tmp_path / "checkpoints", 1, 2, 10, 11, keep=2)
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["10", "11"]
    assert restore(folder) == (11, digest(make_state(11)), [])


@pytest.mark.parametrize("step", [1, 2])
def test_a_step_that_is_not_new_is_refused(copy, step):
    checkpoints = Checkpoints(copy)
    with pytest.raises(CheckpointError, match=f"holds step 2: step {step} was not saved"):
        checkpoints.save(step, make_state(step))
    checkpoints.close()
    assert restore(copy) == (2, digest(make_state(2)), [])


def test_an_empty_folder_has_nothing(tmp_path):
    assert restore(tmp_path / "checkpoints") == (None, None, [])


def test_a_new_run_does_not_wait_for_orbax(tmp_path):
    """In an interpreter of its own: it is imported for the first state to save, or to read."""
    code = (
        "import pathlib, sys\n"
        "from gan_jax import session\n"
        f"new = session.Checkpoints(pathlib.Path({str(tmp_path / 'new')!r}))\n"
        "assert new.restore({}) is None and new.steps == []\n"
        "print('orbax' in sys.modules)\n"
        "new.save(1, {'x': __import__('numpy').zeros(2)})\n"
        "new.wait()\n"
        "print('orbax' in sys.modules, new.steps)\n"
        "new.close()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:2] == ["False", "True [1]"]


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def largest(folder):
    return max(files(folder), key=lambda path: path.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


DAMAGES = {
    "truncated": lambda step: largest(step).write_bytes(largest(step).read_bytes()[:100]),
    "a byte changed": lambda step: flip(largest(step)),
    "its largest file gone": lambda step: largest(step).unlink(),
    "metadata gone": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
    "all files gone": lambda step: (shutil.rmtree(step), step.mkdir()),
    "the contents of another": lambda step: (
        shutil.rmtree(step / "state"),
        shutil.copytree(step.parent / "1" / "state", step / "state"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_is_set_aside_for_the_one_before(copy, damage):
    DAMAGES[damage](copy / "2")
    left = {path.relative_to(copy / "2") for path in (copy / "2").rglob("*")}
    step, bits, said = restore(copy)
    assert (step, bits) == (1, digest(make_state(1)))
    (line,) = said
    aside = copy.parent / "corrupt" / "2-0"
    assert line.startswith("checkpoint 2 cannot be read (")
    assert line.endswith(f"moved to {aside}")
    assert {path.relative_to(aside) for path in aside.rglob("*")} == left
    checkpoints = Checkpoints(copy)  # and the step can be saved again
    checkpoints.save(2, make_state(2))
    checkpoints.close()
    assert restore(copy) == (2, digest(make_state(2)), [])


def test_no_damage_to_any_file_is_taken_for_a_good_state(two, tmp_path):
    outcomes = []
    for damage in (flip, lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
        for i, file in enumerate(files(two / "2")):
            folder = tmp_path / f"{len(outcomes)}"
            shutil.copytree(two, folder)
            if file.stat().st_size:
                damage(files(folder / "2")[i])
            step, bits, said = restore(folder, keep=None)
            assert bits == digest(make_state(step))
            assert len(said) == (step == 1)
            outcomes.append(step)
    assert 6 < outcomes.count(1) < len(outcomes)


def test_when_none_can_be_read_all_are_left_and_it_says_what_next(copy):
    for step in ("1", "2"):
        largest(copy / step).unlink()
    before = snapshot(copy.parent)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"2: .*1: .*left as they are.*To begin anew"):
            restore(copy)
        assert snapshot(copy.parent) == before


def test_a_disk_that_fails_for_a_while_costs_nothing(copy, monkeypatch):
    def load(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as failing:
        failing.setattr(Checkpoints, "_load", load)
        with pytest.raises(CheckpointError, match=r"Input/output error.*try again"):
            restore(copy)
    assert restore(copy) == (2, digest(make_state(2)), [])


def test_a_state_of_another_structure_costs_nothing(copy):
    template = {**jax.eval_shape(make_state, 0), "new": jax.ShapeDtypeStruct((), jnp.float32)}
    checkpoints = Checkpoints(copy)
    with pytest.raises(CheckpointError, match="another version made them"):
        checkpoints.restore(template)
    checkpoints.close()
    assert restore(copy) == (2, digest(make_state(2)), [])


def test_an_unfinished_save_is_passed_over(copy):
    (copy / "3.orbax-checkpoint-tmp").mkdir()
    (copy / "3.orbax-checkpoint-tmp" / "part").write_bytes(b"part")
    assert restore(copy) == (2, digest(make_state(2)), [])


@pytest.mark.parametrize("damaged", [False, True])
def test_a_reader_changes_nothing(copy, damaged):
    (copy / "3.orbax-checkpoint-tmp").mkdir()
    if damaged:
        flip(largest(copy / "2"))
    before = snapshot(copy.parent)
    step, bits, said = restore(copy, keep=None)
    assert (step, bits, len(said)) == (2 - damaged, digest(make_state(step)), damaged)
    assert snapshot(copy.parent) == before


def test_no_thread_is_left(tmp_path):
    before = set(threading.enumerate())
    save(tmp_path / "checkpoints", 1, 2, 3)
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=60)  # Orbax tells its last one to end, and does not wait for that
    assert set(threading.enumerate()) <= before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads
def test_a_save_that_fails_says_so(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))  # like a full disk
    try:
        checkpoints.save(1, make_state(1))
        with pytest.raises(CheckpointError, match=r"could not be saved.*make room"):
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        checkpoints.close()
    assert restore(tmp_path / "checkpoints") == (None, None, [])
