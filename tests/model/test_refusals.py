"""Every model and every input that is refused: the whole message, as the catalogue has it."""

from __future__ import annotations

import ast
import re
import traceback
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers

import ssmscan
from tests.model import catalogue
from tests.model.zoo import CASES, Y, conditioned, local_level

pytestmark = pytest.mark.slow

SHARED, ENTRIES = catalogue.read()
# Refusals of what a test must forge or the package never makes by itself, tested where they stand; and those that
# `certify` turns into rows of a certificate.
ELSEWHERE = (
    "the model was not understood. Please report it with the model.",
    "the traced parts give log-density",
    "the model has no states, so there is nothing to draw forward.",
    "NumPyro does not run the model forward over its data (",
)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.title)
def test_the_catalogue_says_word_by_word_what_is_raised(entry):
    error = catalogue.raised(SHARED, entry.code)
    dtype = str(jnp.result_type(float))
    assert catalogue.sentence(error) == entry.message.replace("float32", dtype)
    if isinstance(error, ssmscan.ModelError):
        printed = "".join(traceback.format_exception(error))
        assert "another exception" not in printed and "direct cause" not in printed


def constant_parts() -> dict[str, str]:
    """Of every ModelError that the package raises: where, and the longest run of words that never changes."""
    found = {}
    root = Path(ssmscan.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ModelError":
                texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
                if texts:
                    found[f"{path.relative_to(root)}:{node.lineno}"] = catalogue.one_line(max(texts, key=len))
    return found


def test_every_refusal_of_the_package_is_in_the_catalogue():
    messages = " ".join(entry.message for entry in ENTRIES)
    parts = constant_parts()
    assert len(parts) > 25
    absent = {where: words for where, words in parts.items() if words not in messages}
    assert not {where: words for where, words in absent.items() if not any(known in words for known in ELSEWHERE)}


def test_no_message_holds_what_was_left_unfilled():
    for entry in ENTRIES:
        if entry.message.startswith("ModelError"):
            assert not re.search(r"\{|\}|None|Tracer|Traced|<|>|0x|\bnan\b|\(\)(?!\W)|  ", entry.message), entry.message
            assert entry.message.count("(") == entry.message.count(")")
            assert entry.message.endswith(".")


HANDLERS = {
    "mask": lambda model: handlers.mask(model, mask=False),
    "scale": lambda model: handlers.scale(model, scale=0.5),
    "do": lambda model: handlers.do(model, data={"x": 1.0}),
    "replay": lambda model: handlers.replay(model, trace={}),
    "uncondition": handlers.uncondition,
    "reparam": lambda model: handlers.reparam(model, config=lambda site: None),
}


@pytest.mark.parametrize("name", HANDLERS)
def test_a_handler_around_the_scan_is_refused_by_its_name(name):
    with pytest.raises(ssmscan.ModelError, match=f"'{name}' stands around the scan"):
        ssmscan.trace(HANDLERS[name](local_level), Y)


KEPT = {
    "lift": lambda model: handlers.lift(model, prior={}),
    "seed": lambda model: handlers.seed(model, rng_seed=0),
    "trace": handlers.trace,
    "infer_config": lambda model: handlers.infer_config(model, config_fn=lambda site: {}),
    "block": lambda model: handlers.block(model, hide=["nobody"]),
}


@pytest.mark.parametrize("name", KEPT)
def test_a_handler_around_the_scan_that_changes_no_density_is_kept(name, traced):
    assert ssmscan.trace(KEPT[name](local_level), Y).program is traced("local_level").program


@pytest.mark.parametrize("key", [0, jnp.zeros(2), jnp.zeros((3, 2), jnp.uint32), "a"])
def test_what_is_not_one_key_is_refused(traced, key):
    with pytest.raises(TypeError, match="key: expected one PRNG key"):
        traced("local_level").simulate(key, {"q": 1.0, "r": 1.0})
    with pytest.raises(TypeError, match="key: expected one PRNG key"):
        traced("local_level").sample_prior(key)


def test_raw_and_typed_keys_are_the_same_key(traced):
    one, two = (traced("local_level").sample_prior(key(3)) for key in (jax.random.key, jax.random.PRNGKey))
    np.testing.assert_array_equal(one["q"], two["q"])


def test_what_is_no_function_is_refused():
    with pytest.raises(TypeError, match="model: expected a NumPyro model"):
        ssmscan.trace(3)


def test_a_reparam_around_the_scan_of_what_stands_outside_is_kept():
    from numpyro.infer.reparam import LocScaleReparam

    outside = ssmscan.trace(handlers.reparam(local_level, config={"x_0": LocScaleReparam(0)}), Y)
    assert {s.name for s in outside.initial} == {"x_0_decentered"}


def test_conditioned_data_without_finite_density_are_named():
    data = Y.copy()
    data[5] = np.inf
    with pytest.raises(ssmscan.ModelError, match="observed site 'y' at step 5 "):
        ssmscan.trace(conditioned, data)


def test_an_error_of_a_model_that_needs_values_is_not_chained_to_the_first_attempt():
    def model(y, regime):
        if int(np.asarray(regime).max()) > 0:
            raise KeyError("a fault of the model")
        local_level(y)

    with pytest.raises(KeyError) as error:
        ssmscan.trace(model, Y, jnp.arange(3))
    assert "another exception" not in "".join(traceback.format_exception(error.value))


def test_masked_elements_may_hold_anything():
    case = CASES["masked_and_scaled"]
    data = np.where(case.args[1], Y, np.nan)
    assert ssmscan.trace(case.model, data, case.args[1]).num_steps == 12


def test_theta_is_checked_by_name_shape_and_support(traced):
    ssm = traced("local_level")
    assert ssm.canonical({"q": 1, "r": np.float64(2.0)})["q"].dtype == ssm.parameters[0].dtype
    with pytest.raises(ValueError, match=r"missing: \['r'\], unknown: \['s'\]"):
        ssm.canonical({"q": 1.0, "s": 1.0})
    with pytest.raises(ValueError, match=r"theta\['q'\] has shape \(2,\), expected \(\)"):
        ssm.canonical({"q": jnp.ones(2), "r": 1.0})
    with pytest.raises(ValueError, match=r"theta\['q'\] = -1.0 is outside the support of its prior HalfNormal"):
        ssm.canonical({"q": -1.0, "r": 1.0})
    with pytest.raises(ValueError, match=r"theta\['q'\] = nan"):
        ssm.canonical({"q": np.nan, "r": 1.0})


def test_gradient_view_names_what_it_cannot_move_and_what_it_sums_out(traced):
    with pytest.raises(ssmscan.ModelError, match=r"site\(s\) 'new' \(BinomialProbs\) cannot be written"):
        traced("growth").smooth_noise  # noqa: B018
    assert [site.name for site in traced("switching").summed_out] == ["z0", "z", "k"]
