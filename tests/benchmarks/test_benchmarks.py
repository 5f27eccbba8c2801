"""The speed benchmark: its counts, its weights in every library, its processes and its tables."""

import dataclasses
import importlib.util
import json
import math
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cases, driver, problem, run
from benchmarks.driver import Timed, Window, Worker, WorkerError
from benchmarks.flops import step_flops
from benchmarks.report import Result
from benchmarks.workers import jax_library, jax_usual
from benchmarks.workers.protocol import Setting, check
from gan_jax.errors import UserError

BATCH = 4
DIGITS = np.random.default_rng(0).integers(0, 256, (BATCH, 28, 28, 1), dtype=np.uint8)
WIDTHS = {
    "mixture": (6, 5),
    "mlp": (6, 5),
    "maxout": (4, 4),
    "dcgan64": (2, 4, 8, 16),
}


def tiny(name):
    """Returns a case with networks of a few features."""
    return dataclasses.replace(cases.CASES[name], latent=3, widths=WIDTHS.get(name, (3, 6)))


def setting(case, contender="gan_jax"):
    """Returns the arguments from which a worker builds a loop of the case."""
    if case.on_ring:
        case = dataclasses.replace(case, latent=2)
    return Setting(contender, case, problem.make(case, BATCH, 0, DIGITS), fixed=False)


# --- The count of operations ---------------------------------------------------------------------


def counted(jaxpr):
    """Returns the multiply-adds of all products and convolutions in the text of a program."""
    total = 0
    for equation in jaxpr.eqns:
        inputs = [variable.aval for variable in equation.invars]
        out = equation.outvars[0].aval
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            total += math.prod(out.shape) * math.prod(inputs[0].shape[i] for i in contracted)
        if equation.primitive.name == "conv_general_dilated":
            kernel = inputs[1].shape
            features = equation.params["dimension_numbers"].rhs_spec[0]
            products = math.prod(out.shape) * math.prod(kernel) // kernel[features]
            # Multiplications by inserted zeros are not counted.
            total += products // math.prod(equation.params["lhs_dilation"])
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += counted(inner)
    return total


@pytest.mark.parametrize("name", cases.CASES)
def test_flops_are_those_of_a_plain_program(name):
    given = setting(tiny(name))
    case = given.case
    x, z = (jax.ShapeDtypeStruct((BATCH, *s), jnp.float32) for s in (case.shape, (case.latent,)))
    key = jax.random.key(0)
    generator = jax.eval_shape(
        lambda: jax_usual._player(given, "generator", case.generator, jnp.zeros(z.shape))
    )
    discriminator = jax.eval_shape(
        lambda: jax_usual._player(given, "discriminator", case.discriminator, jnp.zeros(x.shape))
    )
    d_step = jax.make_jaxpr(jax_usual.discriminator_step, static_argnums=5)
    g_step = jax.make_jaxpr(jax_usual.generator_step)
    plain = case.n_critic * counted(d_step(generator, discriminator, x, z, key, case.r1).jaxpr)
    plain += counted(g_step(generator, discriminator, z, key).jaxpr)
    if case.r1:  # the program's text has D's pass on the real batch twice, because of the penalty
        forward = jax.make_jaxpr(jax_usual.forward)
        plain -= counted(forward(discriminator, discriminator.params, x, key).jaxpr)
    assert step_flops(case, BATCH) == 2 * plain


# --- The same weights and losses in every library ------------------------------------------------


def test_a_problem_is_read_as_it_was_written(tmp_path):
    made = setting(tiny("dcgan28_r1")).problem
    made.save(tmp_path / "problem.npz")
    read = problem.load(tmp_path / "problem.npz")
    jax.tree.map(np.testing.assert_array_equal, vars(read), vars(made))


@pytest.mark.parametrize(
    "name",
    [
        "mixture",
        pytest.param("maxout", marks=pytest.mark.slow),
        pytest.param("dcgan28_r1", marks=pytest.mark.slow),
    ],
)
def test_the_library_and_plain_jax_have_the_same_losses(name, quick_compile):
    given = setting(dataclasses.replace(tiny(name), n_critic=2))
    ours = check(jax_library.build, given, driver.CHECKED_STEPS)
    theirs = check(jax_usual.build, given, driver.CHECKED_STEPS)
    assert driver.compare_losses(theirs, ours)[1] is None
    assert np.all(np.isfinite([list(losses.values()) for losses in ours]))
    plain = check(jax_library.build, given._replace(contender="gan_jax_plain"), 2)
    assert driver.compare_losses(plain, ours[:2])[1] is None
    if "gan_jax_16" in given.case.contenders:
        every = check(jax_library.build, given._replace(contender="gan_jax_16"), 2)
        assert driver.compare_losses(every, ours[:2])[1] is None


@pytest.mark.parametrize(
    ("module", "contender"),
    [
        ("torch_variants", "torch_eager"),
        ("torch_variants", "torch_tuned"),
    ],
)
def test_other_libraries_have_the_same_losses(module, contender, tmp_path, quick_compile):
    library = module.split("_")[0]
    if importlib.util.find_spec(library) is None:  # importing it here might warn
        pytest.skip(f"there is no {library}")
    given = setting(tiny("dcgan28"))
    given.problem.save(tmp_path / "problem.npz")
    command = [sys.executable, "-m", f"benchmarks.workers.{module}"]
    with closing(Worker(contender, command, tmp_path / "log")) as worker:
        case = dataclasses.asdict(given.case)
        path = str(tmp_path / "problem.npz")
        worker.ask("start", contender=contender, case=case, problem=path)
        theirs = worker.ask("check", steps=2)["losses"]
    ours = check(jax_library.build, given, 2)
    assert driver.compare_losses(theirs, ours)[1] is None


def test_another_weight_of_the_penalty_is_found_out(quick_compile):
    given = setting(dataclasses.replace(tiny("mlp"), r1=0.25))
    ours, theirs = (
        check(jax_usual.build, given._replace(case=dataclasses.replace(given.case, r1=r1)), 2)
        for r1 in (0.25, 0.5)
    )
    assert driver.compare_losses(theirs, ours)[1] is not None


def test_a_loss_that_is_no_number_is_found_out():
    ours = {"discriminator_loss": 1.0, "generator_loss": 1.0}
    _, what = driver.compare_losses([ours | {"generator_loss": math.nan}], [ours])
    assert what.startswith("generator_loss of step 1 is nan")
    assert driver.compare_losses([{"generator_loss": 1.0}], [ours])[1].startswith("it reports")


# --- The processes and their turns ---------------------------------------------------------------

FAKE = """
import os, sys, time
from benchmarks.workers.protocol import serve

def build(loss):
    def loop(steps):
        print("a library's chatter")
        if loss == "crash":
            os._exit(3)
        time.sleep(0.001 * steps)
        return steps, {"discriminator_loss": float(loss), "generator_loss": 1.0}
    return loop

import benchmarks.workers.protocol as protocol
protocol.check = lambda build, loss, steps: [build(loss)(1)[1] for _ in range(steps)]
serve(build, {"fake": "1"}, read=lambda request: request["loss"])
"""


def test_processes_take_turns_and_the_wrong_are_left_out(tmp_path):
    losses = {"ours": "1.0", "other": "1.00001", "wrong": "1.1", "crash": "crash", "odd": "words"}
    seen = []
    with ExitStack() as stack:
        timed = {}
        for name, loss in losses.items():
            worker = Worker(name, [sys.executable, "-c", FAKE], tmp_path / name)
            stack.enter_context(closing(worker))
            timed[name] = Timed(worker)
            timed[name].versions = worker.ask("start", loss=loss)["versions"]
        driver.check(timed, "ours")
        entries = [(one, 0.02) for one in timed.values()]
        driver.interleave(entries, 2, lambda number, one: seen.append((number, one.worker.name)))
        peak = timed["ours"].worker.ask("stop")["peak_bytes"]
    assert [name for _, name in seen] == [*losses, *losses]
    assert {name for name, one in timed.items() if one.unavailable is None} == {"ours", "other"}
    assert "1.1, and the reference is 1: they differ by 1.0e-01" in timed["wrong"].unavailable
    assert "ended with code 3" in timed["crash"].unavailable
    assert timed["odd"].unavailable.startswith("ValueError: could not convert string")
    for name in ("ours", "other"):
        assert len(timed[name].windows) == 2
        assert all(500 < rate <= 1000 for rate in timed[name].rates)
    assert 2**20 < peak < 2**30
    assert timed["other"].deviation == pytest.approx(1e-5)
    assert "chatter" in (tmp_path / "ours").read_text()


def test_a_process_that_ends_before_its_first_request_says_why(tmp_path):
    command = [sys.executable, "-c", "import no_such_library"]
    with closing(Worker("absent", command, tmp_path / "log")) as worker:
        worker._process.wait()
        why = r"ended with code 1 \(ModuleNotFoundError: No module named 'no_such_library'\): see"
        with pytest.raises(WorkerError, match=why):
            worker.ask("start")


@pytest.mark.parametrize("status", [0, 1])
def test_a_python_without_torch_is_named_with_a_remedy(status, tmp_path, capsys):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {status}\n")
    python.chmod(0o755)
    run._look_for_torch(run.Config(torch_python=python))
    printed = capsys.readouterr().out
    assert ("--torch-python. Continuing without it" in printed) == bool(status)


# --- The tables and the command line -------------------------------------------------------------


def fake(name, *seconds, **known):
    """Returns a contender that made ten steps in each window of this many seconds."""
    windows = [Window(10, s, 0.25) for s in seconds]
    return Timed(type("Named", (), {"name": name})(), windows=windows, **known)


def test_a_table_has_medians_ratios_and_shares():
    contenders = {
        "gan_jax": fake("gan_jax", 0.5, 1.0, 0.25, peak_bytes=2**28),
        "torch_tuned": fake("torch_tuned", 1.0, 1.0, 1.0, deviation=2e-6),
        "jax_usual": fake("jax_usual", unavailable="it ran out of memory"),
    }
    result = Result(
        cases.CASES["dcgan28_n5"], 64, contenders, {"gemm_jax": fake("gemm_jax", 1.0, 2.0, 0.5)}
    )
    gemm = 10 * 2 * 2048**3
    share = 20 * step_flops(result.case, 64) / gemm
    table = result.table()
    assert "gemm_jax 171.8 GFLOP/s; other processes: 0.25 cores (most 0.25)" in table
    row = f"| gan_jax | 20 | 10 to 40 | 6400 | 2.00 | {share:.1%} | 256 | reference |"
    assert row in table.splitlines()
    assert "| jax_usual | not available: it ran out of memory | | | | | | |" in table
    assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) == 1
    found = json.loads(json.dumps(result.to_json()))
    assert cases.from_json(found["case"]) == result.case
    assert found["contenders"]["gan_jax"]["windows"][0]["seconds"] == 0.5


def test_the_machine_unmeasured_leaves_shares_empty():
    result = Result(cases.CASES["mixture"], 64, {"gan_jax": fake("gan_jax", 1.0)}, {})
    assert "| gan_jax | 10 | 10 to 10 | 640 |  |  |  | reference |" in result.table()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cases": ("dcgan",)}, "--cases must be some of mixture, .*; got dcgan$"),
        ({"cases": ()}, "--cases must be some of .*; got none"),
        ({"contenders": ("gan_jax", "gan_jax")}, "--contenders names one twice"),
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
        ({"seconds": 0.0}, "--seconds must be above 0, got 0.0"),
        ({"torch_python": Path("nowhere")}, "--torch-python nowhere is no file: give"),
        ({"out": Path(__file__)}, "--out .* is a file: give a folder"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(change, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run.main(dataclasses.replace(run.Config(out=tmp_path / "out"), **change))
    assert not (tmp_path / "out").exists()


def test_the_reference_is_always_timed():
    names = run.contenders(run.Config(contenders=("jax_usual", "gan_jax_16")), tiny("dcgan28"))
    assert names == ["gan_jax", "jax_usual"]
