"""The recipes of `gan-jax train`, and the flag that chooses one."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from gan_jax import Batch
from gan_jax.run import cli
from gan_jax.run.commands import train
from gan_jax.run.commands.recipes import RECIPES

WIDTHS = {"sngan": 8, "biggan": 4, "r3gan": 8, "stylegan2": 8, "dcgan": 4}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_a_run_that_can_begin(name):
    recipe = RECIPES[name]
    train.check(recipe)
    assert recipe.workdir == Path("runs") / name
    small = dataclasses.replace(recipe, width=WIDTHS[name], conditional="projection")
    state = jax.eval_shape(lambda: train.build(small, None, (32, 32, 3), 3)[1])
    assert state.generator.params


def command(*flags):
    """Runs the command line, and returns the settings that it would train with."""
    found = []
    cli.run(found.append, train.Config, "", prog="gan-jax train", args=flags, recipes=RECIPES)
    return found


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setattr(cli, "keep_compilations", lambda: None)
    monkeypatch.setattr(cli.memory, "return_large_buffers", lambda: None)
    monkeypatch.setattr(cli.gc, "freeze", lambda: None)


def test_without_a_recipe_the_defaults_are_those_of_the_flags():
    assert command() == [train.Config()]


def test_flags_change_a_recipe():
    (settings,) = command("--recipe", "dcgan", "--r1", "3", "--data.size", "64")
    recipe = RECIPES["dcgan"]
    data = dataclasses.replace(recipe.data, size=64)
    assert dataclasses.replace(settings, workdir=recipe.workdir) == dataclasses.replace(
        recipe, r1=3.0, data=data
    )


def test_print_writes_the_settings_and_trains_nothing(capsys):
    assert command("--recipe=dcgan", "--r1", "3", "--print") == []
    printed = json.loads(capsys.readouterr().out)
    assert (printed["r1"], printed["latent"], printed["data"]["size"]) == (3.0, 64, 32)


def test_gamma_of_r1_may_follow_from_the_images_and_the_batch():
    (settings,) = command("--r1", "auto", "--model", "mlp", "--width", "4", "--batch-size", "8")
    assert settings.r1 == "auto"
    train.check(settings)

    def program(r1):
        config = dataclasses.replace(settings, r1=r1)
        programs = []

        def trace():
            _, state, step = train.build(config, None, (8, 4, 1))
            programs.append(jax.make_jaxpr(step)(state, Batch(jnp.zeros((1, 8, 8, 4, 1)))))
            return state

        jax.eval_shape(trace)
        return str(programs[0])

    automatic = program("auto")
    assert automatic == program(0.0002 * 8 * 4 / 8)
    assert automatic != program(0.0002 * 8 * 8 / 8)


def test_help_shows_the_values_of_the_recipe(capsys):
    with pytest.raises(SystemExit):
        command("--recipe", "dcgan", "--help")
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "(default: runs/dcgan)" in said
    assert f"those of {', '.join(RECIPES)}" in said


@pytest.mark.parametrize(("name", "end"), [("dcgam", ": did you mean dcgan?\n"), ("x", "\n")])
def test_an_unknown_recipe_is_refused_with_the_nearest_name(name, end, capsys):
    with pytest.raises(SystemExit) as stop:
        command("--recipe", name)
    assert stop.value.code == 2
    assert f"--recipe {name} is none of {', '.join(RECIPES)}{end}" in capsys.readouterr().err
