"""The decisions of the watch on records that no training made."""

import pytest

from gan_jax.run.watch import Watch, troubles

HEALTHY = {
    "discriminator_loss": 1.2,
    "generator_loss": 0.9,
    "variety": 0.9,
    "nearness": 1.1,
    "rarest_class": 3,
    "rarest_class_share": 0.5,
    "training_above_held_out": 0.55,
}


def records(**trouble):
    """Returns forty records, one for each 50 steps. Every fourth has an evaluation. The trouble
    begins after step 1,000."""
    made = []
    for step in range(50, 2050, 50):
        record = {"step": step, **HEALTHY, **(trouble if step > 1000 else {})}
        if step % 200:
            record = {name: record[name] for name in ("step", "discriminator_loss")}
        made.append(record)
    return made


@pytest.mark.parametrize("loss", ["non_saturating", "wasserstein", ""])
def test_nothing_is_said_of_a_healthy_run(loss):
    assert troubles(records(), loss) == []


@pytest.mark.parametrize(
    ("name", "trouble", "evidence"),
    [
        ("collapse", {"variety": 0.02}, "fell from 0.90 to 0.02 of the data's"),
        ("a class is gone", {"rarest_class_share": 0.0}, "class 3 has 0% of its share"),
        ("overfitting of D", {"training_above_held_out": 0.95}, "ranks 95% of training images"),
        ("memorisation", {"nearness": 0.0}, "0.00 times as far from training images"),
        ("saturation", {"discriminator_loss": 0.001}, "D's loss is 0.001, but 1.39"),
        (
            "divergence",
            {"discriminator_loss": 1e5},
            "discriminator_loss has a median size of",
        ),
    ],
)
def test_a_trouble_is_named_once_and_within_500_steps(name, trouble, evidence):
    (found,) = troubles(records(**trouble), "non_saturating")
    assert (found.name, found.step <= 1500) == (name, True)
    assert evidence in str(found)
    assert found.advice in str(found)


def evaluated(variety, every):
    steps = range(every, 5001, every)
    return [{"step": step, **HEALTHY, "variety": variety(step)} for step in steps]


@pytest.mark.parametrize("every", [50, 200, 1000])
def test_a_run_that_begins_collapsed_is_named_after_step_3000(every):
    (found,) = troubles(evaluated(lambda step: 0.004 + 0.003 * (step % 400 > 0), every))
    assert found.name == "collapse from the start"
    assert 3000 < found.step <= 3000 + 2 * every
    assert "never reached 0.1 of the data's, and hardly rises: it was 0.00" in str(found)


@pytest.mark.parametrize(
    "variety",
    [
        lambda step: 0.01 if step <= 2500 else 0.5,
        lambda step: 0.01 * 2 ** (step / 2000),
        lambda step: 0.15,
    ],
)
@pytest.mark.parametrize("every", [50, 200, 1000])
def test_variety_that_rises_late_or_slowly_or_is_not_low_is_no_collapse(every, variety):
    assert troubles(evaluated(variety, every)) == []


def test_a_slow_run_whose_distance_falls_is_no_collapse():
    made = evaluated(lambda step: 0.02, 500)
    distances = [{"frechet_distance": 214.0 - record["step"] / 100} for record in made]
    assert troubles([a | b for a, b in zip(made, distances, strict=True)]) == []
    distances = [{"frechet_distance": 214.0 - record["step"] / 1000} for record in made]
    assert len(troubles([a | b for a, b in zip(made, distances, strict=True)])) == 1


def test_a_collapse_after_a_late_rise_is_named_too():
    made = evaluated(lambda step: 0.01 if step <= 3500 else 1.0 if step <= 4500 else 0.02, 100)
    assert [found.name for found in troubles(made)] == ["collapse from the start", "collapse"]


def test_a_resumed_watch_repeats_nothing():
    made = records(variety=0.02)
    watch = Watch("non_saturating")
    said = [trouble.name for record in made[:30] for trouble in watch.see(record)]
    assert said == ["collapse"]
    assert [trouble for record in made[30:] for trouble in watch.see(record)] == []


def test_a_low_loss_for_a_short_time_or_of_a_loss_without_a_lowest_value_is_no_saturation():
    low = records(discriminator_loss=0.001)
    assert troubles(low, "wasserstein") == []
    first = [{"step": step, "discriminator_loss": 0.001} for step in range(1, 100)]
    assert troubles(first, "minimax") == []
