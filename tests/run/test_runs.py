"""The folder of a run: the input that it refuses, and the results that it keeps."""

import contextlib
import errno
import json
import math
import subprocess
import sys

import jax
import pytest

from gan_jax.errors import UserError
from gan_jax.run.folder import RunFolder, read_config
from gan_jax.run.locks import alone, has_locks

SETTINGS = {"experiment": "mnist", "config": {"lr": 0.1, "steps": 5, "dir": None}}
FREE = frozenset({"config.steps"})


def changed(**config):
    return {**SETTINGS, "config": {**SETTINGS["config"], **config}}


def visit(*arguments):
    """Opens one session in a run's folder and returns the folder."""
    folder = RunFolder(*arguments)
    with folder.visit():
        return folder


@pytest.fixture
def folder(tmp_path):
    return visit(tmp_path / "deep" / "run", SETTINGS, FREE)


def test_nothing_is_written_before_a_visit(tmp_path):
    RunFolder(tmp_path / "run", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_remembers_its_settings(folder):
    assert read_config(folder.path) == SETTINGS


def test_the_same_settings_change_nothing(folder):
    config = folder.path / "config.json"
    before = config.stat().st_mtime_ns
    visit(folder.path, SETTINGS, FREE)
    assert config.stat().st_mtime_ns == before


def test_free_settings_may_change_and_are_remembered(folder):
    visit(folder.path, changed(steps=9), FREE)
    assert read_config(folder.path) == changed(steps=9)


def test_other_settings_are_refused_naming_each_difference(folder):
    other = {**changed(lr=0.2, dir="x", steps=9), "new": True}
    with pytest.raises(UserError) as refused:
        RunFolder(folder.path, other, FREE)
    lines = str(refused.value).splitlines()
    assert str(folder.path) in lines[0]
    assert lines[1:-1] == [
        "  config.dir: None there, 'x' asked for",
        "  config.lr: 0.1 there, 0.2 asked for",
        "  new: None there, True asked for",
    ]
    assert "another folder" in lines[-1]
    assert read_config(folder.path) == SETTINGS


def test_an_empty_folder_may_become_a_run(tmp_path):
    visit(tmp_path, SETTINGS)
    assert read_config(tmp_path) == SETTINGS


def test_a_folder_whose_first_visit_was_killed_at_its_first_write_may_too(tmp_path):
    (tmp_path / "config.json.tmp").write_text('{"exper')
    visit(tmp_path, SETTINGS)
    assert read_config(tmp_path) == SETTINGS


@pytest.mark.parametrize("name", ["thesis.tex", ".hidden", "metrics.jsonl"])
def test_a_folder_with_something_else_in_it_is_refused(tmp_path, name):
    (tmp_path / name).write_text("years of work")
    with pytest.raises(UserError, match=f"{tmp_path} exists and is not a run's folder"):
        RunFolder(tmp_path, SETTINGS)


def test_one_visit_at_a_time(folder):
    other = RunFolder(folder.path, changed(steps=9), FREE)
    with (
        folder.visit(),
        pytest.raises(UserError, match=f"another command is at work in {folder.path}: wait"),
        other.visit(),
    ):
        pass
    assert read_config(folder.path) == SETTINGS
    with other.visit():
        assert read_config(folder.path) == changed(steps=9)


def test_a_visit_that_failed_is_over(folder):
    with pytest.raises(ZeroDivisionError), folder.visit():
        raise ZeroDivisionError
    with folder.visit():
        pass


def test_a_visit_of_another_process_is_over_when_that_is_killed(folder):
    program = (
        "import sys, time, json, pathlib; from gan_jax.run.folder import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])).visit():\n"
        "    print('in', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(folder.path), json.dumps(SETTINGS)],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(UserError, match="another command is at work"), folder.visit():
            pass
        process.kill()
    with folder.visit():
        pass


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_file_system_without_locks_is_no_obstacle(folder, monkeypatch, call):
    def lock(*_, **__):
        raise OSError(errno.ENOLCK, "no locks")

    assert has_locks(folder.path.parent)
    monkeypatch.setattr(f"fcntl.{call}", lock)
    assert not has_locks(folder.path.parent)
    with folder.visit(), RunFolder(folder.path, changed(steps=9), FREE).visit():
        assert read_config(folder.path) == changed(steps=9)


@pytest.mark.parametrize("full", ["ENOSPC", "EDQUOT"])
def test_a_full_disk_still_locks_folders(tmp_path, monkeypatch, full):
    def fails(**_):
        raise OSError(getattr(errno, full), "no space")

    with alone(tmp_path):
        monkeypatch.setattr("tempfile.TemporaryFile", fails)
        assert has_locks(tmp_path)
        with pytest.raises(UserError, match="another command is at work"), alone(tmp_path):
            pass


def test_other_data_are_refused_with_the_source_that_has_them(tmp_path):
    """A run may begin without a network, and resume with one."""
    settings = {**SETTINGS, "data": {"source": "embedded", "count": 5000}}
    visit(tmp_path, settings)
    with pytest.raises(UserError, match=r"(?s)data.count: 5000 there.*data.source to embedded"):
        RunFolder(tmp_path, {**SETTINGS, "data": {"source": "tfds", "count": 60000}})


def test_what_came_in_between_is_not_overwritten(tmp_path):
    """Two commands may find an empty folder. The second one then finds the first one's run."""
    first, second = RunFolder(tmp_path, SETTINGS), RunFolder(tmp_path, changed(lr=0.2))
    with first.visit():
        pass
    with pytest.raises(UserError, match="holds a run with other settings"), second.visit():
        pass
    assert read_config(tmp_path) == SETTINGS


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a run's folder"):
        RunFolder(tmp_path / "file", SETTINGS)


@pytest.mark.parametrize("damage", [b"", b'{"experiment": "mn', b"[1]", b"\xff\xfe"])
def test_a_damaged_config_is_named(folder, damage):
    config = folder.path / "config.json"
    config.write_bytes(damage)
    with pytest.raises(UserError, match=f"{config} is damaged.*use a new folder"):
        RunFolder(folder.path, SETTINGS, FREE)


def test_records_come_back_in_order(folder):
    assert folder.metrics() == []
    for step in (2, 4):
        folder.log({"step": step, "value": -1.5})
    assert folder.metrics() == [{"step": 2, "value": -1.5}, {"step": 4, "value": -1.5}]


@pytest.mark.parametrize("tail", ['{"step": 6, "val', "\0\0\0", "\n\n"])
def test_a_record_cut_off_by_a_crash_is_dropped(folder, tail):
    for step in (2, 4):
        folder.log({"step": step})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write(tail)
    assert folder.rewind(100) == [{"step": 2}, {"step": 4}]
    folder.log({"step": 6})
    assert folder.metrics() == [{"step": 2}, {"step": 4}, {"step": 6}]


def test_rewinding_drops_what_will_be_made_again(folder):
    for step in (2, 4, 6):
        folder.log({"step": step})
    assert folder.rewind(4) == [{"step": 2}, {"step": 4}]
    assert folder.metrics() == [{"step": 2}, {"step": 4}]


def test_a_summary_names_versions_and_devices_and_marks_its_step(folder):
    assert not folder.is_complete(4)
    folder.summarise({"step": 4})
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary["versions"]["jax"] == jax.__version__
    assert len(summary["devices"]) == jax.device_count()
    assert folder.is_complete(4)
    assert not folder.is_complete(6)


@pytest.mark.parametrize("damage", ["", "[4]", '{"step"', "{}"])
def test_a_damaged_summary_is_none(folder, damage):
    (folder.path / "summary.json").write_text(damage)
    assert not folder.is_complete(4)


RECORDS = [
    {"step": step, "value": -1.25, "real_accuracy": 0.5, "seconds": step / 4} for step in (2, 4, 6)
]


def flips(good):
    """Yields the bytes with one changed at each position: a bit, the top bit, a line end, a NUL."""
    for position, byte in enumerate(good):
        for other in {byte ^ 1, byte ^ 0x80, 10, 0} - {byte}:
            yield position, good[:position] + bytes([other]) + good[position + 1 :]


@pytest.fixture
def unsynced(monkeypatch):
    """Disables fsync, because the tests write a file a thousand times."""
    monkeypatch.setattr("gan_jax.run.files.os.fsync", lambda descriptor: None)


@pytest.mark.usefixtures("unsynced")
def test_a_flipped_byte_costs_no_more_than_its_records(folder):
    """Any byte may be damaged. All other lines are read, and the message names the damaged line."""
    metrics = folder.path / "metrics.jsonl"
    for record in RECORDS:
        folder.log(record)
    good = metrics.read_bytes()
    dropped = 0
    for position, bad in flips(good):
        metrics.write_bytes(bad)
        said = []
        kept = folder.rewind(100, said.append)
        number = good[:position].count(b"\n")
        hit = {number, number + 1} if good[position : position + 1] == b"\n" else {number}
        for i, record in enumerate(RECORDS):
            assert i in hit or record in kept, bad
        for record in kept:
            assert type(record["step"]) is int
            assert all(math.isfinite(value) for value in record.values())
        if len(kept) < len(RECORDS):
            dropped += 1
            assert said
            assert all(f"of {metrics} cannot be read" in line for line in said)
        said.clear()
        assert folder.rewind(100, said.append) == kept  # the file has been repaired
        assert said == []
    assert dropped > len(good) / 2


@pytest.mark.parametrize(
    "line",
    [
        *("[]", "7", "null", '"step"', "{}", '{"step": null}', '{"step": "4"}', '{"step": 4.0}'),
        *(
            '{"step": true}',
            '{"step": -4}',
            '{"step": 4, "value": NaN}',
            '{"step": 4, "value": {}}',
        ),
        *('{"step": 4, "value": 1e999}', '{"step": 4, "value": null}', "[" * 100_000),
        *('{"step": 4, "value": ' + "9" * 400 + "}", '{"step": 4, "value": ' + "9" * 5000 + "}"),
    ],
)
def test_what_is_no_record_is_passed_over_and_those_after_it_are_kept(folder, line, capsys):
    metrics = folder.path / "metrics.jsonl"
    metrics.write_text(f'{{"step": 2}}\n{line}\n{{"step": 6}}\n')
    assert folder.metrics() == [{"step": 2}, {"step": 6}]
    assert f"line 2 of {metrics} cannot be read" in capsys.readouterr().out


def test_a_flipped_byte_in_the_summary_is_another_summary_or_none(folder):
    folder.summarise({"step": 4})
    file = folder.path / "summary.json"
    for _, bad in flips(file.read_bytes()):
        file.write_bytes(bad)
        assert isinstance(folder.summary(), dict)
        folder.is_complete(4)


@pytest.mark.usefixtures("unsynced")
def test_a_flipped_byte_in_the_config_is_another_setting_or_a_message_with_its_name(folder):
    file = folder.path / "config.json"
    refused = 0
    for _, bad in flips(file.read_bytes()):
        file.write_bytes(bad)
        with contextlib.suppress(UserError):
            visit(folder.path, SETTINGS, FREE)
            continue
        refused += 1
        with pytest.raises(UserError, match=str(folder.path)):
            RunFolder(folder.path, SETTINGS, FREE)
    assert refused > 100
