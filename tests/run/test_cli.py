"""The command line that all commands share."""

import dataclasses
import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import pytest
from tqdm import tqdm

import experiments
import gan_jax_command
from gan_jax.run import cli, progress


@pytest.fixture
def _restored():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.usefixtures("_restored")
def test_compilations_are_kept_in_the_users_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cli.keep_compilations()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "gan_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    cli.keep_compilations()
    expected = Path.home() / ".cache" / "gan_jax"
    assert jax.config.values["jax_compilation_cache_dir"] == str(expected)


@pytest.mark.usefixtures("_restored")
def test_a_user_without_a_home_folder_keeps_no_compilations(monkeypatch):
    for name in ("JAX_COMPILATION_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)  # a number that no user has
    jax.config.update("jax_compilation_cache_dir", None)
    cli.keep_compilations()
    assert jax.config.values["jax_compilation_cache_dir"] is None


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("chosen", ["", "elsewhere"])
def test_jaxs_own_variable_has_the_last_word(monkeypatch, chosen):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", chosen)
    before = jax.config.values["jax_compilation_cache_dir"]
    cli.keep_compilations()
    assert jax.config.values["jax_compilation_cache_dir"] == before


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize("folder", [None, "elsewhere"])
@pytest.mark.parametrize("chosen", [None, "2.5"])
def test_what_is_quickly_compiled_is_kept_too_unless_told_otherwise(monkeypatch, folder, chosen):
    name = "jax_persistent_cache_min_compile_time_secs"
    for variable, value in (("JAX_COMPILATION_CACHE_DIR", folder), (name.upper(), chosen)):
        monkeypatch.delenv(variable, raising=False)
        if value is not None:
            monkeypatch.setenv(variable, value)
    jax.config.update(name, float(chosen or 1.0))  # JAX reads its variable at the start
    cli.keep_compilations()
    assert jax.config.values[name] == float(chosen or 0)


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/run/x.png"), SystemExit),
        (PermissionError(errno.EACCES, "Permission denied", "/run/x.png"), SystemExit),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/run/x.png"), SystemExit),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "/run/x.png"), SystemExit),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/run/x.png"), SystemExit),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "/run/x.png"), SystemExit),
        (FileExistsError(errno.EEXIST, "File exists", "/run/x.png"), SystemExit),
        (FileNotFoundError(errno.ENOENT, "No such file", "/run/x.png"), FileNotFoundError),
    ],
)
def test_a_disk_that_fails_ends_in_a_message_and_a_mistake_of_ours_in_a_traceback(
    monkeypatch, error, ends
):
    @dataclasses.dataclass
    class Config:
        """None."""

    def main(_):
        raise error

    monkeypatch.setattr("sys.argv", ["command"])
    with pytest.raises(ends, match=r"/run/x.png") as stop:
        cli.run(main, Config, "")
    if ends is SystemExit:
        assert stop.value.code.startswith("error: ")
        assert error.strerror in stop.value.code


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "00:00"), (59.9, "00:59"), (3_600, "1:00:00"), (99_990, "27:46:30"), (1e7, "2777:46:40")],
)
def test_time_left_is_told_in_hours_however_many(seconds, shown):
    """99,990 s are 27 h 46 min 30 s. Half of the steps are done, so as much time is left."""
    assert progress.time_left(seconds, 7, 7) == shown


@pytest.mark.parametrize("seconds_a_step", [0.0, 1.0, 300.0])
def test_progress_tells_the_time_that_a_bar_would(seconds_a_step, monkeypatch, capsys):
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    names = "discriminator_loss", "generator_loss", "value", "real_accuracy", "fake_accuracy"
    with closing(progress.Progress(0, 1000)) as shown:
        for step in (0, 10):
            shown.update(step, dict.fromkeys(names, 0.5))
            clock[0] += 10 * seconds_a_step
            shown._printed = -1e9  # due, whatever time has passed
        shown.update(20, dict.fromkeys(names, 0.5))
    printed = capsys.readouterr().out
    if not seconds_a_step:
        assert "ETA" not in printed
        return
    left = tqdm.format_interval(980 * seconds_a_step)
    assert f"{1 / seconds_a_step:.1f} steps/s  ETA {left}  " in printed


def test_work_in_parts_tells_its_pace_and_the_time_left_on_stderr(monkeypatch, capsys):
    """Ten parts of 6 s each: a line at the start, one for every second part, and the end."""
    clock = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    for _ in progress.over(range(10), "features of 10 images"):
        clock[0] += 6
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "features of 10 images: part 0/10",
        *(
            f"features of 10 images: part {done}/10  0.2 parts/s  ETA 00:{60 - 6 * done:02}"
            for done in (2, 4, 6, 8, 10)
        ),
    ]


def test_work_in_parts_that_fails_is_not_shown_as_complete(capsys):
    with pytest.raises(ZeroDivisionError):
        list(map((1).__truediv__, progress.over([1, 0], "division", str)))
    assert capsys.readouterr().err == "division: part 0/2  1\n"


PROGRAM = """
import sys
import experiments
import gan_jax_command
from gan_jax.run import cli
import dataclasses
@dataclasses.dataclass
class Config:
    "None."
def main(_):
    {body}
cli.run(main, Config, "A command.")
"""


@pytest.mark.parametrize(
    "body",
    [
        "for i in range(100_000): print(i)",
        "print(1, flush=True); sys.stdin.readline(); print(2)",  # at the end only
        "print(1, flush=True); sys.stdin.readline(); print(2); sys.exit('error: x')",
    ],
)
def test_output_that_nobody_reads_ends_a_command_without_a_traceback(body):
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        text=True,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert said == ""


def test_a_command_finishes_its_work_after_the_reader_of_stderr_is_gone(tmp_path):
    body = "sys.stdin.readline(); [print('x', file=sys.stderr) for _ in range(9)]; print('done')"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        text=True,
    ) as process:
        process.stderr.close()
        process.stdin.close()
        said = process.stdout.read()
    assert (process.returncode, said) == (0, "done\n")


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_a_command_runs_with_its_streams_closed(closed, tmp_path):
    body = "print('x'); print('y', file=sys.stderr); open('done', 'w').close()"
    line = [sys.executable, "-c", PROGRAM.format(body=body)]
    shell = f"{shlex.join(line)} {closed}"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run(shell, shell=True, cwd=tmp_path, env=env, check=True)
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["importing", "at work", "at exit", "twice"])
def test_a_signal_ends_a_command_with_a_message_at_any_moment(signum, code, moment, tmp_path):
    """The test copies the package `experiments`, with one command that Python runs by `-m`."""
    package = tmp_path / "commands"
    package.mkdir()
    source = Path(__file__).parents[2] / "experiments" / "__init__.py"
    (package / "__init__.py").write_text(source.read_text())
    # Short sleeps: a signal that comes just before a long one would be handled only after it.
    wait = "print('there', flush=True); [time.sleep(0.1) for _ in range(6000)]"
    (package / "work.py").write_text(
        "import threading, time\n"
        + {
            "importing": wait,
            "at work": f"try:\n    {wait}\nexcept BaseException: time.sleep(600)",
            "at exit": f"def last():\n    {wait}\nthreading.Thread(target=last).start()",
            "twice": "from gan_jax.run.loop import signals\nwith signals() as received:\n"
            "    print('there', flush=True)\n"
            "    while not received: time.sleep(0.01)\n"
            f"    {wait}",
        }[moment]
    )
    # Tests may run where SIGINT is ignored. `preexec_fn` would fork, which JAX warns of.
    heed = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", heed, "-m", "commands.work"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(2 if moment == "twice" else 1):
            assert process.stdout.readline() == "there\n"
            time.sleep(0.2 if moment == "at exit" else 0)
            process.send_signal(signum)
        said = process.stderr.read()
    assert process.returncode == code
    assert said == (
        f"stopped by {signum.name}: saved files are intact. The same command resumes a training "
        "from its last save, and begins any other work again\n"
    )


def test_importing_the_commands_leaves_the_signals_alone():
    assert experiments.__file__
    for number in (signal.SIGINT, signal.SIGTERM):
        assert signal.getsignal(number) != gan_jax_command._end
