"""What all experiments share on the command line."""

import dataclasses
import errno
from pathlib import Path

import jax
import pytest

from experiments import cli


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
    jax.config.update(name, float(chosen or 1.0))  # as JAX reads its variable at the start
    cli.keep_compilations()
    assert jax.config.values[name] == float(chosen or 0)


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/run/x.png"), SystemExit),
        (PermissionError(errno.EACCES, "Permission denied", "/run/x.png"), SystemExit),
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


def test_tracking_goes_through_everything_and_says_so(capsys):
    assert list(cli.track([3, 1, 2], "numbers")) == [3, 1, 2]
    assert "numbers: 3/3" in capsys.readouterr().out
