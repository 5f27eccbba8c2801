"""Each program of a run is compiled once, and the training step before anything else."""

import jax
import pytest
from small_runs import config, write_idx

from experiments import mnist
from gan_jax.run import hooks

FIRST_CHUNK = "the first chunk is finished"
CHUNK = {"jit": "jit(chunk)", "shard": "jit(chunk)", "pmap": "jit(_fun)"}

LATER = {
    "jit(dynamic_slice)": "the metrics of a last chunk that is shorter",
    # The same on several devices, where numpy's way of slicing is several programs.
    **dict.fromkeys(
        ("jit(_multi_slice)", "jit(convert_element_type)", "jit(broadcast_in_dim)", "jit(gather)"),
        "the metrics of a last chunk that is shorter",
    ),
    "jit(sampler)": "the first grid of a resumed run, which draws none at the beginning",
}
"""Programs that a run compiles after its first chunk, and their purpose."""


@pytest.fixture
def visit(compiled, monkeypatch, tmp_path):
    """Runs the experiment to a step in one folder: what was compiled, with `FIRST_CHUNK` in it."""
    idx = write_idx(tmp_path / "idx")
    log = hooks.log

    def noting(*args, **options):
        hook = log(*args, **options)

        def start(step, state, metrics):
            jax.block_until_ready(metrics)
            if FIRST_CHUNK not in compiled:
                compiled.append(FIRST_CHUNK)
            return hook.start(step, state, metrics)

        return hook._replace(start=start)

    monkeypatch.setattr(hooks, "log", noting)

    def visit(layout, num_steps):
        compiled.clear()
        settings = {"sample_every": 4, "checkpoint_every": 4, "parallel": layout}
        mnist.main(config(tmp_path / "run", idx, num_steps=num_steps, **settings))
        return list(compiled)

    return visit


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize(
    "layout",
    [pytest.param(name, marks=() if name == "shard" else pytest.mark.slow) for name in CHUNK],
)
def test_a_visit_compiles_the_chunk_and_the_sampler_once_and_little_after_the_first_chunk(
    visit, layout
):
    """Five steps in chunks of two, then two more from the fifth: the lengths 2, 2, 1; 1, 1."""
    for num_steps in (5, 7):
        names = visit(layout, num_steps)
        assert names.count(CHUNK[layout]) == 1
        assert names.count("jit(sampler)") == 1
        after = names[names.index(FIRST_CHUNK) + 1 :]
        assert CHUNK[layout] not in after
        assert set(after) <= LATER.keys()
