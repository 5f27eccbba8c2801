"""A full disk ends a run in a message; when there is room, the same command resumes exactly."""

import contextlib
import subprocess

import pytest
from small_runs import config, write_idx
from test_killed import ROOT, command, environment, final

STEPS = {"num_steps": 24, "log_every": 2, "checkpoint_every": 4, "sample_every": 8}
SIZES = 24
PAGE = 4096


@contextlib.contextmanager
def small_disk(folder, size):
    """Mounts a file system of `size` bytes and yields a function that makes room on it."""

    def mount(*options):
        subprocess.run(["mount", *options, folder], check=True, capture_output=True)

    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("nothing can be mounted here")
    try:
        yield lambda: mount("-o", "remount,size=64m")
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_disk_full_at_24_sizes_ends_in_a_message_and_then_resumes_exactly(tmp_path):
    idx = write_idx(tmp_path / "idx")
    env = environment(tmp_path / "cache") | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}

    def run(settings):
        return subprocess.run(command(settings), cwd=ROOT, env=env, capture_output=True, text=True)

    whole = config(tmp_path / "whole", idx, **STEPS)
    assert run(whole).returncode == 0
    files = [path for path in whole.workdir.rglob("*") if path.is_file()]
    pages = sum(-(-path.stat().st_size // PAGE) for path in files)
    end, stops = final(whole), []
    for i in range(SIZES):  # from a page, in which config.json does not fit, to more than enough
        size = PAGE * (1 + i + int(1.25 * pages * (i / (SIZES - 1)) ** 2))
        settings = config(tmp_path / f"disk{i}" / "run", idx, **STEPS)
        with small_disk(settings.workdir.parent, size) as make_room:
            first = run(settings)
            assert "Traceback" not in first.stdout
            if first.returncode:
                (line,) = first.stderr.splitlines()
                assert line.startswith("error: "), (size, line)
                assert first.returncode == 1
                stops.append(sorted(path.name for path in settings.workdir.glob("checkpoints/*")))
            else:
                assert first.stderr == ""
            make_room()
            second = run(settings)
            assert second.returncode == 0, (size, second.stderr)
            assert final(settings) == end, size
    print(f"{len(stops)} of {SIZES} stopped, with these checkpoints: {stops}")
    assert len(stops) >= SIZES * 3 // 4
    assert first.returncode == 0
    assert stops[0] == []
    assert sum(any("tmp" in name for name in names) for names in stops) >= SIZES // 3
