"""The benchmark of the loop, and the measurement of memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import loop
from benchmarks.workers.protocol import process_memory
from gan_jax.errors import UserError
from gan_jax.run.tables import markdown


def test_what_a_run_costs_is_told_by_medians(tmp_path, monkeypatch, capsys):
    figures = {
        "start": {"cold": {"median": 8.0}, "warm": {"median": 2.5}},
        "overhead": {"percent": 25.0, "steps": 20, "with_hooks": [5.0, 2.5, 4.0], "bare": [2.0]},
        "memory": {
            "compiling_peak_mib": 640.0,
            "peak_mib": 512.0,
            "settled_mib": 400.0,
            "mib_per_1000_steps": 1.0,
        },
    }
    for part, known in figures.items():
        monkeypatch.setattr(loop, f"measure_{part}", lambda config, folder, known=known: known)
    out = tmp_path / "new" / "folder" / "loop.json"
    found = loop.main(loop.Config(out=out))
    assert json.loads(out.read_text()) == found
    assert found.items() >= figures.items()
    assert capsys.readouterr().out.splitlines()[-9:] == [
        "| seconds to the first step, cold cache | 8.00 |",
        "| seconds to the first step, warm cache | 2.50 |",
        "| steps/s with records, grids and checkpoints | 5.00 |",
        "| steps/s bare | 10.00 |",
        "| overhead of the loop, % | 25.00 |",
        "| memory: peak of a run that compiles, MiB | 640.00 |",
        "| memory: peak of a run with a full cache, MiB | 512.00 |",
        "| memory: median once settled, MiB | 400.00 |",
        "| memory: growth, MiB per 1000 steps | 1.00 |",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": 0}, "--rounds must be at least 1, got 0"),
        ({"out": Path(__file__).parent}, "--out .* is a folder: name a file"),
        (
            {"out": Path(__file__) / "below" / "a file"},
            "--out .* cannot be created .*: name another",
        ),
    ],
)
def test_a_setting_that_cannot_be_is_refused_before_measuring(change, message, monkeypatch):
    monkeypatch.setattr(loop, "measure_start", lambda *_: pytest.fail("measured"))
    with pytest.raises(UserError, match=message):
        loop.main(loop.Config(**change))


def test_a_short_row_ends_in_empty_cells():
    table = markdown(("a", "b", "c"), [(1, "", 2.5), ("x",)])
    assert table == "| a | b | c |\n|---|---|---|\n| 1 |  | 2.5 |\n| x | | |"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux has /proc")
def test_the_memory_of_a_process_is_that_of_the_other_account():
    """`statm` in pages, for a process that holds 64 MiB and has freed as much."""
    code = "x, y = bytearray(2**26), bytearray(2**26); del y; print(flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        memory = process_memory(process.pid)
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        process.communicate(b"\n")
    assert memory["VmRSS"] == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.02)
    assert 2**26 < memory["VmRSS"] < memory["VmHWM"] - 0.9 * 2**26
    assert process_memory(process.pid) == {}
