"""Tests of the table of mixtures, with small runs: its rows, its folder and its flags."""

import dataclasses
import json
import shutil

import pytest
from PIL import Image
from small_runs import assert_kept, assert_refused, compiled_in_a_hurry

from experiments import many, mixture_table
from experiments.mixture_2d import Recipe
from gan_jax.errors import UserError

SMALL = mixture_table.Config(
    data=("ring",),
    ways=("plain", "pacgan2"),
    num_steps=20,
    batch_size=8,
    seeds=2,
    num_samples=50,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = dataclasses.replace(SMALL, workdir=tmp_path_factory.mktemp("table") / "run")
    with compiled_in_a_hurry():
        return config, mixture_table.main(config)


def test_ours_the_published_and_a_perfect_sampler_stand_together(finished):
    config, summary = finished
    text = (config.workdir / "table.md").read_text()
    names = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    published = [f"{name}, published" for name in mixture_table.PUBLISHED["ring"]]
    assert names[2:] == ["**GAN**", "**PacGAN2**", *published, "a perfect sampler"]
    assert "| PacGAN4, published | 7.8 | 95.9 | 0.07 |  |  |  |  |  |" in text
    found = summary["figures"]["ring"]["plain"]
    assert found["updates"] == {"generator": 20, "discriminator": 20}
    captured = found["gan"]["captured"]
    mean = sum(captured) / 2
    assert f"| **GAN** | {mean:.1f} ({min(captured):.1f} to {max(captured):.1f}) |" in text
    with Image.open(config.workdir / "ring.png") as picture:
        assert picture.size[0] > 400


def test_what_is_done_is_not_done_again(finished, monkeypatch, tmp_path):
    """A stopped run has no summary and only one of its two rows."""
    config, summary = finished
    config = dataclasses.replace(
        config, workdir=shutil.copytree(config.workdir, tmp_path / "stopped")
    )
    (config.workdir / "summary.json").unlink()
    shutil.rmtree(config.workdir / "ways" / "ring_pacgan2")
    trained = []
    train = many.train
    monkeypatch.setattr(
        many, "train", lambda recipe, *a, **k: trained.append(recipe) or train(recipe, *a, **k)
    )
    with compiled_in_a_hurry():
        again = mixture_table.main(config)
    assert [recipe.pack for recipe in trained] == [2]
    assert json.dumps(again["figures"]) == json.dumps(summary["figures"])


def test_a_cell_made_by_another_recipe_is_refused_and_kept(finished, tmp_path):
    config, _ = finished
    config = dataclasses.replace(
        config, workdir=shutil.copytree(config.workdir, tmp_path / "of_before")
    )
    (config.workdir / "summary.json").unlink()
    cell = config.workdir / "ways" / "ring_pacgan2" / "config.json"
    found = json.loads(cell.read_text())
    found["recipe"]["final_lr_share"] = 0.0
    cell.write_text(text := json.dumps(found))
    with pytest.raises(
        UserError, match=r"(?s)ring_pacgan2 holds .*recipe.final_lr_share: 0.0 there"
    ):
        mixture_table.main(config)
    assert cell.read_text() == text


@pytest.mark.parametrize("damage", ["", "[]", "{}", '"gan"', '"updates"', "\udcff"])
def test_a_cell_that_is_damaged_is_made_again(damage, finished, tmp_path, monkeypatch):
    """A cell whose file is cut, or has other names, is made again from its last checkpoint."""
    config = finished[0]
    cell = shutil.copytree(config.workdir / "ways" / "ring_pacgan2", tmp_path / "cell")
    recipe = mixture_table.recipe(config, "ring", "pacgan2")
    file = cell / "summary.json"
    text = file.read_text()
    assert mixture_table._one(recipe, cell) == json.loads(text)
    monkeypatch.setattr(mixture_table, "_train", lambda recipe, folder: {"made": "again"})
    assert mixture_table._one(recipe, cell) == json.loads(text)
    bad = text.replace(damage, '"g"', 1) if damage.startswith('"') else damage
    file.write_bytes(bad.encode(errors="surrogateescape"))
    assert mixture_table._one(recipe, cell)["made"] == "again"


def test_a_way_that_diverges_has_a_row_that_says_so(monkeypatch, tmp_path):
    """The other rows are complete."""
    recipe = mixture_table.recipe
    monkeypatch.setattr(
        mixture_table,
        "recipe",
        lambda config, data, way: dataclasses.replace(
            recipe(config, data, way),
            **({"generator_lr": 1e30} if way == "pacgan2" else {}),
        ),
    )
    config = dataclasses.replace(SMALL, workdir=tmp_path / "run", seeds=1)
    with compiled_in_a_hurry():
        summary = mixture_table.main(config)
    text = (config.workdir / "table.md").read_text()
    assert "| **PacGAN2** | diverged |  |  |  | 20 | 20 |" in text
    assert "| **GAN** | " in text
    assert "not finite at step" in summary["figures"]["ring"]["pacgan2"]["diverged"]
    assert summary["figures"]["ring"]["pacgan2"]["settings"]["pack"] == 2


def test_the_folder_is_kept(finished):
    assert_kept(mixture_table, *finished, num_steps=40)


def test_each_row_is_the_recommended_recipe_but_for_what_it_says():
    """Each row differs from the recommended recipe only in the settings listed here."""
    rows = {
        name: mixture_table.recipe(mixture_table.Config(), "grid", name)
        for name in mixture_table.COMPARED
    }
    assert rows["recommended"] == dataclasses.replace(Recipe(), data="grid")
    changed = {
        name: {
            field.name
            for field in dataclasses.fields(Recipe)
            if getattr(row, field.name) != getattr(rows["recommended"], field.name)
        }
        for name, row in rows.items()
    }
    assert changed.pop("recommended") == set()
    assert changed.pop("annealed") == {"noise"}
    assert changed.pop("noise") == {"penalty"}
    assert changed.pop("long") == {"num_steps"}
    final = "final_penalty_share"
    usual = {"generator_slope", "latent_scale", "b1"}
    assert changed == {
        "usual": {"noise", "penalty"} | usual,
        "usual_r1": {"noise", final} | usual,
        "plain": {"noise", "penalty"},
        "unrolled": {"noise", "penalty", "unroll", "discriminator_lr"},
        "pacgan2": {"noise", "penalty", "pack"},
        "wgan_gp": {"noise", "penalty", "loss", "n_critic", final},
        "r1": {"noise", final},
        "rpgan": {"noise", "penalty", "loss", final},
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data": ("spiral",)}, "--data spiral is none of ring, grid"),
        ({"ways": ("best",)}, "--ways best is none of usual"),
        ({"ways": ()}, "--ways must name at least one"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
    ],
)
def test_bad_flags(settings, message, tmp_path):
    config = dataclasses.replace(SMALL, workdir=tmp_path / "run", **settings)
    assert_refused(mixture_table, config, message)


def test_each_variation_of_exact_changes_one_setting():
    rows = [
        mixture_table.recipe(mixture_table.Config(), "grid", name) for name in mixture_table.EXACT
    ]
    exact, *others = map(dataclasses.asdict, rows)
    for other in others:
        assert len([name for name in exact if exact[name] != other[name]]) == 1
