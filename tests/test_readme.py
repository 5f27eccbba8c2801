"""The code, commands and links in the README."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np

from benchmarks import quality
from experiments import mixture_2d, mixture_table, mnist, sample, stacked_mnist
from gan_jax.run import datasets as data

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_steps_in_your_own_pipeline(capsys, quick_compile):
    """The README's own lines, with fewer steps, which is enough to move towards the data."""
    code, parts, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    shorter = code.replace("range(3000)", "range(300)")
    assert shorter.count("range(300)") == 1
    names: dict = {}
    exec(shorter, names)
    before = names["state"]
    exec(parts, names)
    assert names["d_metrics"].keys() >= {"discriminator_loss", "r1"}
    assert "generator_loss" in names["g_metrics"]
    assert jax.tree.structure(names["state"]) == jax.tree.structure(before)
    value, mean = re.fullmatch(r"(\S+) \[(.*)\]\n", capsys.readouterr().out).groups()
    assert -2 < float(value) < 0
    assert np.linalg.norm(np.array(mean.split(), float) - 2.0) < 1.5 < np.linalg.norm([2.0, 2.0])


def test_a_sweep(capsys, quick_compile):
    """Eight GANs of two rates, in one program; all near the theory's -log 4."""
    _, _, code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code, {})
    mean, spread = re.findall(r"\[(.*?)\]", capsys.readouterr().out)
    np.testing.assert_allclose(np.array(mean.split(), float), -np.log(4), atol=0.1)
    assert 0 < max(map(float, spread.split())) < 0.1


def test_every_flag_is_one_of_the_experiments():
    pages = README + "".join(
        (Path(__file__).parents[1] / "docs" / page).read_text()
        for page in ("benchmarks.md", "modes.md")
    )
    named = set(re.findall(r"--([a-z][a-z.-]*)(?!\w)", pages)) - {"help", "recipe", "print"}
    known = {
        prefix + field.name.replace("_", "-")
        for prefix, config in (
            ("", mnist.Config),
            ("", sample.Config),
            ("", mixture_2d.Config),
            ("", mixture_table.Config),
            ("", stacked_mnist.Config),
            ("", quality.Config),
            ("data.", data.Config),
        )
        for field in dataclasses.fields(config)
    }
    pytorch = (Path(__file__).parents[1] / "benchmarks" / "torch_dcgan.py").read_text()
    known |= set(re.findall(r"^    (\w+): ", pytorch, re.MULTILINE))
    assert len(named) > 10
    assert named <= known, named - known


def test_every_file_it_links_to_is_there():
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)\)", prose)
    assert links
    for link in links:
        assert (Path(__file__).parents[1] / link).exists(), link
