"""`gan_jax.run.train` with steps, batches and metrics that are not a GAN's of images."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import contents, stopped

import gan_jax.run
from gan_jax.run import Interrupted, Look, NonFinite, RunFolder, cli, train

LENGTH = 4
"""Number of steps in a chunk."""


def step(state, batch):
    """A random walk: the batch is a dictionary, one metric is a vector, and nothing is a GAN's."""
    key = jax.random.fold_in(state["key"], state["count"])
    moved = batch["far"] * jax.random.normal(key, state["place"].shape) + batch["drift"].sum()
    place = state["place"] + moved
    state = {"key": state["key"], "count": state["count"] + 1, "place": place}
    return state, {"distance": jnp.linalg.norm(place), "place": place}


def begin(seed=0):
    return {"key": jax.random.key(seed), "count": jnp.int32(0), "place": jnp.zeros(2)}


def batches(first):
    steps = np.arange(first, first + LENGTH, dtype=np.float32)
    return {
        "far": 1 + np.cos(steps),
        "drift": np.outer(steps, np.linspace(-0.1, 0.11, 8)).astype("f"),
    }


def walk(path, num_steps=17, looks=(), **options):
    """Returns the last state of a walk in a folder."""
    folder = RunFolder(path, {"walk": 1})
    options = {"layout": "jit", "checkpoint_every": 7, **options}
    options = {"state": begin(), "batches": batches, "chunk_length": LENGTH, **options}
    return train(step, folder=folder, num_steps=num_steps, looks=looks, **options)


def records(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_any_step_trains_on_any_batches_with_any_metrics(tmp_path, capsys):
    state, history, path = begin(), [], tmp_path / "run"
    for number in range(17):
        given = jax.tree.map(lambda leaf: leaf[0], batches(number))
        state, metrics = step(state, given)
        history.append(metrics)
    made = walk(path)
    np.testing.assert_allclose(made["place"], state["place"], rtol=1e-5)
    ends = [0, 4, 7, 8, 12, 14, 16, 17]  # chunks, and checkpoints every seven steps
    found = records(path)
    assert [record["step"] for record in found] == ends[1:]
    for begun, record in zip(ends, found, strict=False):
        for name in ("distance", "place"):
            values = [metrics[name] for metrics in history[begun : record["step"]]]
            assert record[name] == pytest.approx(float(np.mean(values)), rel=1e-5)
    shown = f"distance {found[-1]['distance']:.3g} place {found[-1]['place']:.3g}"
    assert capsys.readouterr().out.rstrip().endswith(shown)


@pytest.mark.parametrize("layout", ["jit", "shard", "ensemble"])
def test_a_run_resumes_exactly_in_every_layout(layout, tmp_path):
    """Looks and checkpoints have their own steps. The run is stopped at 13, after a look."""

    def go(path):
        folder, state = RunFolder(path, {"walk": 1}), begin()
        if layout == "ensemble":
            state = jax.vmap(begin)(jnp.arange(3))
        look = Look((3, 8, 13), lambda state: {"twice": 2 * state["place"]}, folder.keep)
        return walk(path, looks=[look], layout=layout, state=state)

    whole = go(tmp_path / "whole")
    with pytest.raises(Interrupted, match="at step 13"), stopped(5):
        go(tmp_path / "parts")
    assert jax.tree.map(jnp.shape, whole)["place"] == ((3, 2) if layout == "ensemble" else (2,))
    parts = go(tmp_path / "parts")
    np.testing.assert_array_equal(parts["place"], whole["place"])
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    kept = RunFolder(tmp_path / "parts", {"walk": 1}).kept()
    assert [step for step, _ in kept] == [0, 3, 8, 13, 17]
    np.testing.assert_array_equal(kept[-1][1]["twice"], 2 * np.asarray(whole["place"]))


def test_members_of_an_ensemble_walk_as_each_alone(tmp_path):
    states = jax.vmap(begin)(jnp.arange(4))
    together = walk(tmp_path / "together", layout="ensemble", state=states)
    for seed in (0, 3):
        alone = walk(tmp_path / f"{seed}", state=begin(seed))
        np.testing.assert_allclose(together["place"][seed], alone["place"], rtol=1e-5)


def test_a_step_may_draw_its_own_data(tmp_path):
    def drawing(state, batch):
        assert batch is None
        return step(state, {"far": jnp.ones(()), "drift": jnp.zeros(1)})

    folder = RunFolder(tmp_path / "run", {})
    made = train(drawing, begin(), folder=folder, num_steps=5, chunk_length=2, layout="jit")
    state = begin()
    for _ in range(5):
        state, _ = drawing(state, None)
    np.testing.assert_allclose(made["place"], state["place"], rtol=1e-5)


def test_a_look_may_return_the_state_itself(tmp_path):
    """The next chunk overwrites the buffers of the state."""
    seen = []
    look = Look(2, lambda state: state["place"], lambda step, made: seen.append(made))
    made = walk(tmp_path / "run", looks=[look])
    np.testing.assert_array_equal(seen[-1], made["place"])
    assert len({tuple(place) for place in seen}) == len(seen) == 10


def test_any_metric_of_any_member_that_is_not_finite_stops_the_run(tmp_path):
    def failing(first):
        given = batches(first)
        given["drift"][np.arange(first, first + LENGTH) == 9] = np.nan
        return given

    states = jax.vmap(begin)(jnp.arange(2))
    with pytest.raises(NonFinite, match=r"distance, place not finite at step 10\. .* of step 7"):
        walk(tmp_path / "run", state=states, batches=failing, layout="ensemble")


def test_a_longer_run_goes_on_and_a_complete_one_is_left_alone(tmp_path):
    walk(tmp_path / "run", 9)
    assert int(walk(tmp_path / "run", 17)["count"]) == 17
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert int(walk(tmp_path / "run", 12)["count"]) == 17
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_stop_before_the_first_checkpoint_begins_anew_without_a_trace(tmp_path):
    """Records of looks at the start are written once."""
    folder = RunFolder(tmp_path / "run", {"walk": 1})

    def show(step, made):
        folder.log({"step": step, "seen": float(made)})
        if step == 0 and len(folder.metrics()) == 1 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            raise KeyboardInterrupt

    look = Look(5, lambda state: state["place"][0], show)
    with pytest.raises(KeyboardInterrupt):
        walk(tmp_path / "run", looks=[look])
    walk(tmp_path / "run", looks=[look])
    assert [r["step"] for r in records(tmp_path / "run") if "seen" in r] == [0, 5, 10, 15, 17]


def saved(path):
    return sorted(int(folder.name) for folder in (path / "checkpoints").iterdir())


def test_a_batch_that_cannot_be_read_loses_nothing_that_was_due(tmp_path):
    def failing(first):
        if first == 8:
            raise ValueError("the disk is gone")
        return batches(first)

    with pytest.raises(ValueError, match="the disk is gone"):
        walk(tmp_path, batches=failing, checkpoint_every=4)
    assert [record["step"] for record in records(tmp_path)] == saved(tmp_path) == [4, 8]


def test_a_picture_that_fails_does_not_keep_a_checkpoint_from_being_saved(tmp_path):
    def show(number, place):
        if number == 8:
            raise ValueError("no picture")

    with pytest.raises(ValueError, match="no picture"):
        walk(tmp_path, looks=[Look(4, lambda state: state["place"], show)], checkpoint_every=4)
    assert [record["step"] for record in records(tmp_path)] == saved(tmp_path) == [4, 8]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_checkpoints": 0}, "keep_checkpoints must be at least 1, got 0"),
        ({"checkpoint_every": -1}, "checkpoint_every must be at least 1, got -1"),
        ({"chunk_length": 0}, "chunk_length must be at least 1, got 0"),
        ({"num_steps": 0}, "num_steps must be at least 1, got 0"),
        ({"layout": "grid"}, "layout must be one of jit, pmap, shard, ensemble, got 'grid'"),
        ({"layout": "pmap", "batches": None}, "batches is None"),
    ],
)
def test_a_number_or_layout_that_cannot_be_is_refused_and_nothing_is_deleted(
    change, message, tmp_path
):
    walk(tmp_path, num_steps=4)
    with pytest.raises(ValueError, match=message):
        walk(tmp_path, **{"num_steps": 8, **change})
    assert saved(tmp_path) == [4]


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [("step", jnp.ones(()), "'step', which a record has"), ("m", jnp.ones(0), "without elements")],
)
def test_a_metric_that_no_record_can_hold_is_refused(metric, value, message, tmp_path):
    def strange(state, batch):
        return step(state, batch)[0], {metric: value}

    with pytest.raises(ValueError, match=message):
        train(strange, begin(), batches, folder=tmp_path / "run", num_steps=4, chunk_length=4)


@pytest.mark.parametrize(
    ("value", "mean"), [(jnp.ones((), jnp.bfloat16), 1.0), (jnp.float32(2e38), 2e38)]
)
def test_means_of_metrics_are_taken_in_double_precision(value, mean, tmp_path):
    """A sum of 500 ones stops at 256 in bfloat16, and that of 2e38 overflows in float32."""

    def constant(state, batch):
        return state, {"m": value}

    options = {"folder": tmp_path / "run", "num_steps": 500, "chunk_length": 500}
    train(constant, jnp.zeros(2), **options, layout="jit")
    assert records(tmp_path / "run")[0]["m"] == pytest.approx(mean)


def test_a_step_without_metrics_has_a_pace(tmp_path):
    train(lambda state, batch: (state + 1, {}), jnp.zeros(2), folder=tmp_path / "run", num_steps=4)
    assert records(tmp_path / "run")[0]["steps_per_second"] > 0


def test_a_folder_may_be_given_by_its_path(tmp_path):
    for folder in (tmp_path / "path", str(tmp_path / "text")):
        train(step, begin(), batches, folder=folder, num_steps=4, chunk_length=4, layout="jit")
        assert [record["step"] for record in records(Path(folder))] == [4]


def test_a_missing_package_is_named_with_the_remedy():
    code = "import sys; sys.modules['filelock'] = None; import gan_jax.run"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    message = "ModuleNotFoundError: gan_jax.run needs filelock: pip install 'gan-jax[experiments]'"
    assert run.stderr.splitlines()[-1] == message


def test_another_command_in_the_folder_is_refused(tmp_path):
    with (
        RunFolder(tmp_path / "run", {"walk": 1}).visit(),
        pytest.raises(ValueError, match="another command is at work"),
    ):
        walk(tmp_path / "run")


def test_messages_of_the_library_name_no_flags():
    """Checks the strings in `gan_jax/run`, except those of the command line and data sources."""
    for file in set(Path(gan_jax.run.__file__).parent.glob("*.py")) - {Path(cli.__file__)}:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"--[a-z]", node.value), f"{file.name}: {node.value}"


def test_a_signal_during_a_session_in_a_folder_frees_it(tmp_path):
    def killing(first):
        if first == 8:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches(first)

    with pytest.raises(Interrupted, match="SIGTERM at step 12"):
        walk(tmp_path / "run", batches=killing)
    assert int(walk(tmp_path / "run")["count"]) == 17
