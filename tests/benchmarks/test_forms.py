"""The benchmark of the forms for CPUs."""

import dataclasses

import numpy as np
import pytest

from benchmarks import forms, problem
from benchmarks.cases import CASES
from gan_jax import _cpu
from gan_jax.errors import UserError


@pytest.mark.slow
def test_the_programs_differ_in_their_forms_alone(monkeypatch, quick_compile):
    only, enabled = _cpu.only, []

    def noting(*names):
        enabled.append(names)
        return only(*names)

    monkeypatch.setattr(_cpu, "only", noting)
    case = dataclasses.replace(CASES["mixture"], widths=(8, 8))
    config = forms.Config(rounds=2, seconds=1e-6)
    seconds = forms.seconds_per_step(
        config, problem.make(case, 4, 0, np.zeros((1, 28, 28, 1), np.uint8)), case
    )
    assert list(seconds) == ["all", "all but dense", "all but keys", "all but adam", "none"]
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())
    assert set(enabled) == {
        _cpu.FORMS,
        (),
        *(tuple(f for f in _cpu.FORMS if f != form) for form in ("dense", "keys", "adam")),
    }


def test_a_table_has_medians_of_each_rounds_ratio():
    seconds = {"all": [1.0, 2.0, 4.0], "none": [2.0, 2.0, 16.0]}
    table = forms._table(seconds).splitlines()
    assert table[2] == "| all | 2e+03 | 1.00 | 1.00 to 1.00 |"
    assert table[3] == "| none | 2e+03 | 2.00 | 1.00 to 4.00 |"


def test_one_round_is_refused():
    with pytest.raises(UserError, match="--rounds must be at least 2, got 1"):
        forms.main(forms.Config(rounds=1))
