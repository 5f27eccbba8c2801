"""Checkpoints: exact, few, verified, and tolerant of failures."""

import errno
import gc
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_runs import digest, snapshot

from gan_jax.run import leaves
from gan_jax.run.checkpoint import CheckpointError, Checkpoints


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
    """Returns (step or None, the bits, the messages)."""
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


def odd_bits(dtype, *shape):
    """Returns every pattern of bits that fits, NaNs and -0 among them."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    return np.arange(size, dtype=np.uint32).astype(np.uint8).view(dtype).reshape(shape)


BITS = {
    **{
        name: jnp.asarray(odd_bits(jnp.dtype(name), 16, 16))
        for name in ("bfloat16", "float16", "float32", "int8", "uint16", "complex64")
    },
    "float8": jnp.asarray(odd_bits(jnp.float8_e4m3fn, 256)),
    "int4": jnp.arange(-8, 8, dtype=jnp.int4),
    "empty": jnp.zeros((3, 0, 2), jnp.bfloat16),
    "scalar": jnp.asarray(odd_bits(jnp.bfloat16)),
    "64 bits": np.pi * np.ones(3),
    **{f"{impl} key": jax.random.key(3, impl=impl) for impl in ("threefry2x32", "rbg")},
    "unsafe_rbg keys": jax.random.split(jax.random.key(3, impl="unsafe_rbg"), 6).reshape(2, 3),
    "no keys": jax.random.split(jax.random.key(3, impl="rbg"), 0),
}


@pytest.mark.parametrize("abstract", [False, True])
def test_every_type_comes_back_bit_for_bit(abstract, tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, leaves.snapshot({**BITS, "64 bits": None}) | {"64 bits": BITS["64 bits"]})
    shapes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in BITS.items()}
    _, back = checkpoints.restore(shapes if abstract else BITS)
    checkpoints.close()
    assert back.keys() == BITS.keys()
    for name, leaf in BITS.items():
        assert (back[name].dtype, back[name].shape) == (leaf.dtype, leaf.shape), name
        assert digest(back[name]) == digest(leaf), name
        assert isinstance(back[name], jax.Array) or name == "64 bits"


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_a_snapshot_outlives_the_state_on_one_device_and_on_eight(impl):
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = jax.make_mesh((len(devices),), ("d",), devices=devices)
        state = jax.device_put(
            {"key": jax.random.key(1, impl=impl), "x": jnp.arange(3.0)},
            jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()),
        )
        before, copy = digest(state), leaves.snapshot(state)
        jax.random.key_data(state["key"]).delete()
        state["x"].delete()
        assert digest(copy) == before
        assert copy["key"].dtype == state["key"].dtype


@pytest.mark.parametrize("state", [{}, {"x": jnp.zeros((0, 2))}])
def test_a_state_without_a_number_comes_back(state, tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state)
    assert digest(checkpoints.restore(state)[1]) == digest(state)
    checkpoints.close()


def test_what_is_not_an_array_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with pytest.raises(TypeError, match=r"state\['epoch'\] must be an array, got a int"):
        checkpoints.save(1, {"epoch": 3})
    assert not (tmp_path / "checkpoints").exists()


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
    """In a new interpreter, Orbax is imported for the first save or restore."""
    code = (
        "import pathlib, sys\n"
        "from gan_jax.run import session\n"
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


def rename_key(step):
    """Changes one bit of a name that Orbax requires: h becomes l."""
    file = step / "_CHECKPOINT_METADATA"
    file.write_bytes(file.read_bytes().replace(b"item_handlers", b"item_handhers"))


DAMAGES = {
    "truncated": lambda step: largest(step).write_bytes(largest(step).read_bytes()[:100]),
    "a byte changed": lambda step: flip(largest(step)),
    "its largest file gone": lambda step: largest(step).unlink(),
    "a bit of a name in the metadata": lambda step: rename_key(step),
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


def test_an_older_one_with_damaged_metadata_does_not_stop_a_run(copy):
    rename_key(copy / "1")
    assert restore(copy, keep=None) == (2, digest(make_state(2)), [])  # a reader needs only this
    step, bits, (line,) = restore(copy)
    assert (step, bits) == (2, digest(make_state(2)))
    assert line.startswith("checkpoint 1 cannot be read (")
    assert line.endswith(f"moved to {copy.parent / 'corrupt' / '1-0'}")
    save(copy, 3)
    assert restore(copy) == (3, digest(make_state(3)), [])


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
        with pytest.raises(CheckpointError, match=r"2: .*1: .*to begin anew.*not changed"):
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


Pair = namedtuple("Pair", "w b")
W, B = jnp.ones((3, 2)), jnp.zeros(2)
PARAMS = {"w": W, "b": B}
KEY = jax.random.key(0)
STRUCTURES = {
    "a missing array": (
        {"b": B},
        "state['w'] (float32[3, 2]) in the checkpoint, not in this state",
    ),
    "one more array": (
        {"a": KEY, **PARAMS},
        "state['a'] (key<fry>[]) in this state, not in the checkpoint",
    ),
    "another shape": (
        {"w": jnp.ones((3, 4)), "b": B},
        "state['w']: float32[3, 2] in the checkpoint, float32[3, 4] in this state",
    ),
    "another rank": (
        {"w": W, "b": B[None]},
        "state['b']: float32[2] in the checkpoint, float32[1, 2] in this state",
    ),
    "another type": (
        {"w": W, "b": B.astype(jnp.bfloat16)},
        "state['b']: float32[2] in the checkpoint, bfloat16[2] in this state",
    ),
    "a subtree for an array": (
        {"w": {"w": W}, "b": B},
        "state['w'] (float32[3, 2]) in the checkpoint, state['w']['w'] (float32[3, 2]) in this",
    ),
    "another container": (
        Pair(b=B, w=W),
        "state['b'] (float32[2]) in the checkpoint, state.w (float32[3, 2]) in this state",
    ),
    "a list": ([B, W], "state['b'] (float32[2]) in the checkpoint, state[0] (float32[2]) in this"),
    "nothing": ({}, "state['b'] (float32[2]) in the checkpoint, not in this state"),
}


def refused(folder, template):
    """Returns the message about a checkpoint of another structure, which must not change."""
    before = snapshot(folder.parent)
    checkpoints = Checkpoints(folder)
    with pytest.raises(CheckpointError) as stop:
        checkpoints.restore(template)
    checkpoints.close()
    assert snapshot(folder.parent) == before
    assert "another structure: " in str(stop.value)
    assert "disk" not in str(stop.value)
    return str(stop.value).split("another structure: ")[1]


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    folder = tmp_path_factory.mktemp("params") / "checkpoints"
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, PARAMS)
    checkpoints.close()
    return folder


@pytest.mark.parametrize("other", STRUCTURES)
def test_the_first_difference_of_structure_is_named_and_nothing_is_moved(other, params):
    template, message = STRUCTURES[other]
    assert refused(params, template).startswith(message)


def test_another_optimizer_and_another_kind_of_key_are_named(tmp_path):
    def state(tx, impl="threefry2x32"):
        return {"key": jax.random.key(0, impl=impl), "opt": tx.init(PARAMS)}

    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, state(optax.adam(1e-3)))
    checkpoints.close()
    assert refused(tmp_path / "checkpoints", state(optax.sgd(1e-3, momentum=0.9))).startswith(
        "state['opt'][0].count (int32[]) in the checkpoint, "
        "state['opt'][0].trace['b'] (float32[2]) in this state"
    )
    assert refused(tmp_path / "checkpoints", state(optax.adam(1e-3), "rbg")).startswith(
        "state['key']: key<fry>[] in the checkpoint, key<rbg>[] in this state"
    )


def test_a_tuple_for_a_list_is_the_same_structure(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(1, {"x": [W, (), {}], "y": None})
    _, back = checkpoints.restore({"x": (W,)})
    checkpoints.close()
    assert jax.tree.structure(back) == jax.tree.structure({"x": (W,)})
    assert digest(back) == digest([W])


def test_damage_to_the_newest_and_another_structure_before_it_costs_nothing(copy):
    flip(largest(copy / "2"))
    template = {**jax.eval_shape(make_state, 0), "new": jax.ShapeDtypeStruct((), jnp.float32)}
    assert refused(copy, template).startswith("state['new'] (float32[]) in this state, not in")


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
        thread.join(timeout=60)  # Orbax tells its last thread to end, and does not wait for it
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("folder", ["checkpoints", "check[points]"])
def test_a_save_that_fails_says_so_and_the_next_one_works(folder, tmp_path):
    checkpoints = Checkpoints(tmp_path / folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))  # as on a full disk
    try:
        checkpoints.save(1, make_state(1))
        with pytest.raises(
            CheckpointError, match=r"could not be saved.*too large\): make room"
        ) as stop:
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "gan_jax-" not in str(stop.value)  # the temporary link's name
    assert checkpoints.steps == []
    checkpoints.save(1, make_state(1))
    checkpoints.close()
    assert restore(tmp_path / folder) == (1, digest(make_state(1)), [])


def test_of_a_save_that_fails_nothing_else_is_printed(tmp_path):
    """In a new interpreter, because Orbax and its threads write to the standard error."""
    code = (
        "import pathlib, resource, sys, jax.numpy as jnp\n"
        "from gan_jax.run.checkpoint import CheckpointError, Checkpoints\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "for size in (100, 500, 1000, 3000, 9000):\n"
        f"    checkpoints = Checkpoints(pathlib.Path({str(tmp_path)!r}) / str(size))\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))\n"
        "    try:\n"
        "        checkpoints.save(1, {str(i): jnp.arange(2000.0) + i for i in range(40)})\n"
        "        checkpoints.wait()\n"
        "    except CheckpointError as error:\n"
        "        print(error)\n"
        "    checkpoints.close()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert len(lines) == 5
    assert all("could not be saved" in line for line in lines)


def test_what_others_report_is_still_reported(params, caplog, monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    refused(params, {})
    logging.getLogger("absl").warning("of absl")
    try:
        raise ValueError("mine")
    except ValueError:
        logging.getLogger("asyncio").exception("of asyncio")
    try:
        raise ValueError("DATA_LOSS: Error opening 'zarr3' driver [tensorstore_spec='{}']")
    except ValueError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved")
    assert [record.message for record in caplog.records] == ["of absl", "of asyncio"]
    mine, of_orbax = ValueError("mine"), RuntimeError("Event loop is closed")
    for error in (mine, of_orbax):
        sys.unraisablehook(SimpleNamespace(exc_value=error))
    assert [unraisable.exc_value for unraisable in told] == [mine]


def test_the_first_save_is_read_back_and_no_other(tmp_path, monkeypatch):
    read, load = [], Checkpoints._load
    monkeypatch.setattr(
        Checkpoints, "_load", lambda self, step: read.append(step) or load(self, step)
    )
    save(tmp_path / "checkpoints", 1, 2, 3)
    assert read == [1]


def test_what_cannot_be_read_back_is_known_at_the_next_save(tmp_path):
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (1, 2):  # until one can be read back
        checkpoints.save(step, make_state(step))
        checkpoints._pending[1].result()
        flip(largest(folder / str(step)))
        with pytest.raises(CheckpointError, match=rf"checkpoint {step} .* cannot be read back \("):
            checkpoints.save(step + 1, make_state(step + 1))
    checkpoints.save(3, make_state(3))
    checkpoints.close()
    assert restore(folder, keep=None)[:2] == (3, digest(make_state(3)))


NAMES = [
    "lr[0.1]",
    "a\\b",
    "**",
    "*",
    "gs:",
    "file:",
    "%5B{}#?",
    "new\nline",
    "'\" ünï😀",
    "x" * 200,
]
NAMES += ["~", "caf\u0301", *([os.fsdecode(b"\xff")] if sys.platform == "linux" else [])]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_is_read_again(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "in").mkdir()
    monkeypatch.chdir(tmp_path / "in")
    folder = Path(name) / "checkpoints"
    save(folder, 1, 2)
    monkeypatch.chdir(tmp_path)
    assert restore(tmp_path / "in" / folder) == (2, digest(make_state(2)), [])
    flip(largest(tmp_path / "in" / folder / "2"))
    step, bits, (line,) = restore(tmp_path / "in" / folder)
    assert (step, bits) == (1, digest(make_state(1)))
    assert line.endswith(f"moved to {tmp_path / 'in' / name / 'corrupt' / '2-0'}")
    assert [path.name for path in (tmp_path / "in").iterdir()] == [name]
    gc.collect()
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_link_that_was_cleaned_up_is_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    checkpoints = Checkpoints(tmp_path / "[x]")
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    for link in (tmp_path / "temporary").iterdir():
        shutil.rmtree(link)
    checkpoints.save(2, make_state(2))
    checkpoints.close()
    assert restore(tmp_path / "[x]") == (2, digest(make_state(2)), [])


@pytest.mark.parametrize("temporary", ["missing", "[odd]"])
def test_a_name_that_cannot_be_used_is_refused_before_anything_is_written(
    temporary, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / temporary))
    (tmp_path / "[odd]").mkdir()
    with pytest.raises(
        CheckpointError, match=r"because its path contains '\[' ']', .*use a folder .*or set TMPDIR"
    ):
        Checkpoints(tmp_path / "a[b]")
    assert not (tmp_path / "a[b]").exists()
    save(tmp_path / "plain", 1)


@pytest.mark.parametrize("first", ["gs", "s3", "az", "hf"])
def test_a_first_folder_that_is_a_store_to_orbax_is_not_given_to_it(first):
    checkpoints = Checkpoints(Path("/") / first / "run")
    assert checkpoints._address != checkpoints.folder
    assert checkpoints._address.readlink() == Path("/") / first / "run"
    assert checkpoints.restore({}) is None


NO_LOCKS = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

static int call(const char *name, int file, int command, void *argument) {
    if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK ||
        command == F_OFD_SETLKW) {
        errno = ENOTSUP;
        return -1;
    }
    return ((int (*)(int, int, void *))dlsym(RTLD_NEXT, name))(file, command, argument);
}

#define WITHOUT_LOCKS(name)                            \\
    int name(int file, int command, ...) {             \\
        va_list arguments;                             \\
        va_start(arguments, command);                  \\
        void *argument = va_arg(arguments, void *);    \\
        va_end(arguments);                             \\
        return call(#name, file, command, argument);   \\
    }

WITHOUT_LOCKS(fcntl)
WITHOUT_LOCKS(fcntl64)

int flock(int file, int operation) {
    errno = ENOTSUP;
    return -1;
}
"""
"""A library in C that makes all file locks fail, as on some network file systems."""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("gcc") is None, reason="needs Linux and a C compiler"
)
def test_a_file_system_without_locks_holds_checkpoints(tmp_path):
    source, library = tmp_path / "no_locks.c", tmp_path / "no_locks.so"
    source.write_text(NO_LOCKS)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    program = """
import fcntl, sys
from pathlib import Path
import jax.numpy as jnp
from gan_jax.run import RunFolder
from gan_jax.run.checkpoint import Checkpoints
folder = RunFolder(Path(sys.argv[1]))
with folder.visit():
    checkpoints = Checkpoints(folder.checkpoints, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.full(3, step)})
    checkpoints.close()
print(*Checkpoints(folder.checkpoints, keep=2).restore({"x": jnp.zeros(3, int)}))
try:
    fcntl.flock(0, fcntl.LOCK_SH)
except OSError:
    print("no locks")
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run")],
        env={**os.environ, "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["3 {'x': Array([3, 3, 3], dtype=int32)}", "no locks"]
