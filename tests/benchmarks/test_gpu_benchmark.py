"""The GPU's checks and measurements: their arithmetic, and all of them at a small size on a CPU."""

import json
import os
import subprocess
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.cases import CASES
from benchmarks.driver import ROOT
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import correct, profile
from benchmarks.gpu.request import read, request
from benchmarks.gpu.sheet import TABLES, Sheet
from gan_jax.errors import UserError
from gan_jax.losses import LOSSES
from gan_jax.models import MODELS
from gan_jax.penalties import PENALTIES


def test_a_difference_is_relative_to_the_largest_number_of_its_leaf():
    ours, reference = {"a": np.array([100.0, 1.0])}, {"a": np.array([100.0, 2.0])}
    assert correct.difference(ours, reference) == (pytest.approx(0.01), "['a']")
    # Below 0.01 the tolerance is relative to 0.01.
    tiny = correct.difference(np.array([2e-6]), np.array([1e-6]))
    assert tiny[0] == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("ours", "reference"),
    [
        (np.array([np.nan]), np.array([1.0])),
        (np.array([1]), np.array([2])),
        (jax.random.key(0), jax.random.key(1)),
    ],
)
def test_nan_other_integers_and_other_keys_are_infinitely_far(ours, reference):
    assert correct.difference(ours, reference)[0] == np.inf


def test_what_is_out_of_bounds_is_an_error_that_names_the_leaf():
    assert correct.within(0.1, {"w": np.ones(2)}, {"w": np.ones(2)})["difference"] == 0
    with pytest.raises(ValueError, match=r"differs by 5\.00e-01 of 0\.1 at \['w'\]"):
        correct.within(0.1, {"w": np.ones(2)}, {"w": np.array([2.0, 1.0])})


def test_every_loss_penalty_and_model_has_a_row(monkeypatch):
    monkeypatch.setattr(correct, "_begin", lambda *_, **__: pytest.fail("begun too early"))
    start = correct._Start(MODELS["mlp"]((2,)), None, correct.Batch(jnp.zeros((1, 8, 2))))
    monkeypatch.setattr(correct, "_plane", lambda: start)
    rows = [(table, name) for table, name, _ in correct._checks()]
    assert len(set(rows)) == len(rows)
    names = {table: {n for t, n in rows if t == table} for table, _ in rows}
    assert set(LOSSES) <= names["losses"]
    assert set(PENALTIES) <= names["penalties"]
    assert all(any(n.startswith(model) for n in names["models"]) for model in MODELS)
    assert {"discriminator", "generator", "simultaneous", "consensus", "unrolled"} < names["steps"]


def test_a_sheet_keeps_what_it_has_and_goes_on(tmp_path):
    sheet = Sheet(tmp_path, "speed", 100.0)
    assert sheet.attempt("t", "one", lambda: {"rate": 1234.5})["rate"] == 1234.5
    assert sheet.attempt("t", "two", lambda: {}["missing"]) is None
    kept = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert kept[0]["name"] == "one"
    assert "KeyError" in kept[1]["error"]
    assert kept[1]["traceback"]
    assert "| one | 1,234 |" in (tmp_path / TABLES).read_text()
    assert "t, two: KeyError" in (tmp_path / TABLES).read_text()

    again = Sheet(tmp_path, "speed", 100.0)
    assert not again.finished
    assert again.attempt("t", "one", lambda: pytest.fail("it was there")) is None
    assert again.attempt("t", "two", lambda: {"rate": 2}) is not None
    again.done()
    assert Sheet(tmp_path, "speed", 100.0).finished


def test_a_sheet_without_time_leaves_rows_out(tmp_path):
    sheet = Sheet(tmp_path, "speed", 0.0)
    assert sheet.attempt("t", "late", lambda: pytest.fail("no time")) is None
    assert "no time" in sheet.rows[0]["error"]


def test_parts_and_times_are_checked():
    assert command.check_parts("train, speed") == ["train", "speed"]
    assert command.check_seconds("speed=10")["speed"] == 10
    with pytest.raises(UserError, match="got fast"):
        command.check_parts("fast")
    for wrong in ("fast=1", "speed", "speed=0", "speed=nan"):
        with pytest.raises(UserError, match=wrong):
            command.check_seconds(wrong)


def test_the_usual_parts_take_less_than_eight_minutes_and_another_needs_its_data(tmp_path, capsys):
    assert sum(command.SECONDS[part] for part in command.USUAL) < 8 * 60
    with pytest.raises(SystemExit):
        command.main(["--out", str(tmp_path), "--parts", "fashion", "--data", str(tmp_path)])
    assert "has no file t10k-images-idx3-ubyte.gz" in capsys.readouterr().err


def test_a_request_gives_the_same_numbers_each_time():
    asked = json.loads(json.dumps(request("gan_jax", CASES["mlp"], 4, "tf32")))
    one, other = read(asked), read(asked)
    assert one.precision == "tf32"
    assert one.problem.real.shape == (4, 28, 28, 1)
    np.testing.assert_array_equal(one.problem.z, other.problem.z)


def test_times_are_those_of_the_device():
    def event(pid, tid, name, duration, **args):
        return {"ph": "X", "pid": pid, "tid": tid, "name": name, "dur": duration, "args": args}

    def called(kind, name, **where):
        return {"ph": "M", "name": kind, "args": {"name": name}, **where}

    host = [
        called("process_name", "/host:CPU", pid=1),
        event(1, 1, "python", 1000.0),
        event(1, 2, "dot.1", 3.0, hlo_op="dot.1"),
    ]
    assert profile.operations(host) == Counter({"dot.1": 3.0})
    device = [
        called("process_name", "/device:GPU:0", pid=2),
        called("thread_name", "Stream #7(Compute)", pid=2, tid=5),
        called("thread_name", "XLA Ops", pid=2, tid=6),
        event(2, 5, "sm90_xmma", 4.0, hlo_op="conv.2"),
        event(2, 5, "sm90_xmma", 5.0, hlo_op="conv.2"),
        event(2, 5, "memcpy", 1.0),
        event(2, 6, "conv.2", 9.0, hlo_op="conv.2"),
    ]
    assert profile.operations(host + device) == Counter({"conv.2": 9.0, "memcpy": 1.0})


def test_an_operation_is_traced_to_its_source():
    text = """
  %fusion.1 = f32[2]{0} fusion(%a), kind=kLoop, metadata={op_name="jit(step)/while/body/mul"}
  ROOT %conv.2 = (f32[2]{0}) custom-call(%a), custom_call_target="__cudnn$convForward"
"""
    assert profile.source(text, "fusion.1") == "while/body/mul"
    assert profile.source(text, "conv.2") == "__cudnn$convForward"
    assert profile.source(text, "fusion.11") == ""
    assert correct.compiled_operations(text) == "__cudnn$convForward 1"


@pytest.mark.slow
def test_all_parts_run_small(tmp_path):
    """Runs everything in turn, as on a GPU. Without PyTorch its columns say so."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--small", "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for part in command.USUAL:
        content = json.loads((tmp_path / f"{part}.json").read_text())
        assert content["finished"]
        assert content["rows"]
    assert (tmp_path / "digits.png").stat().st_size > 0
    text = (tmp_path / TABLES).read_text()
    assert all(f"## {part} (" in text for part in command.USUAL)
    assert len(list(tmp_path.iterdir())) <= 8
