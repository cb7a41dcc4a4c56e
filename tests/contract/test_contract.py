"""Every model of the contract: taken apart with the roles its file declares, and put together again."""

from __future__ import annotations

import jax
import pytest

from tests.contract.__main__ import load, names, roles_right, traced

QUICK = {"ar2_condition_data_init", "gaussian_ssm_y_xs_or_length", "sv_obs_after_scan"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.heavy) for name in names()]
)
def test_a_model_as_people_write_it_is_taken_apart_and_put_together_again(name):
    file = load(name)
    ssm = traced(file)
    assert roles_right(file, ssm), ssm
    assert ssm.check(jax.random.key(0)).passed
    changes = getattr(file, "predict_kwargs", None)
    if changes is not None:
        assert traced(file, **changes).num_steps > ssm.num_steps
