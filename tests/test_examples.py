"""Every example runs, gives the same numbers from the same key, and gives the right ones; so does the demo."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.stats import betabinom, gamma

import ssmscan
from ssmscan.__main__ import main
from ssmscan.demo import run as run_demo
from tests.truth import LinearGaussian, linear_gaussian

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def load_example(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def level_is_right(found, example):
    theta = example.THETA
    phi, beta, q, r = (theta[name] for name in ("phi", "beta", "q", "r"))
    noise = np.full((2, 2), q**2)
    model = LinearGaussian(
        m=np.zeros(2),
        P=noise,
        F=np.array([[phi, 0], [phi, beta]]),
        Q=noise,
        H=np.array([[0.0, 1.0]]),
        R=np.array([[r**2]]),
    )
    exact = linear_gaussian(model, np.asarray(found["y"], float)[:, None]).log_likelihood
    assert abs(found["log_likelihood"] - exact) < 0.5
    assert found["rms_error"] < r


def lags_and_inputs_is_right(found, example):
    theta = {name: np.asarray(value, float) for name, value in example.THETA.items()}
    day = np.arange(len(found["y"]))
    known = 10 + theta["warmth"] * np.sin(2 * np.pi * day / 365) + theta["bonus"] * (day % 7 == 6)
    noise = np.diag([theta["q"] ** 2, 0])
    model = LinearGaussian(
        m=np.zeros(2),
        P=noise,
        F=np.array([theta["phi"], [1, 0]]),
        Q=noise,
        H=np.array([[1.0, 0.0]]),
        R=np.array([[0.25]]),
    )
    exact = linear_gaussian(model, (np.asarray(found["y"], float) - known)[:, None]).log_likelihood
    assert abs(found["log_likelihood"] - exact) < 0.5
    assert abs(found["bonus"] - theta["bonus"]) < 2


def grid_walk_is_right(found, example):
    steps = np.diff(np.asarray(found["position"]), axis=0)
    assert (np.abs(steps).sum(axis=1) == 1).all()
    assert found["rms_error"] < 1


def stick_breaking_is_right(found, example):
    counts = np.asarray(found["counts"])
    left = 500 - np.cumsum(counts) + counts
    alpha = np.linspace(0.01, 20, 2000)
    log_likelihood = betabinom.logpmf(counts, left, 1, alpha[:, None]).sum(axis=1)
    posterior = np.exp(log_likelihood - log_likelihood.max()) * gamma.pdf(alpha, 3)
    mean = posterior @ alpha / posterior.sum()
    sd = np.sqrt(posterior @ (alpha - mean) ** 2 / posterior.sum())

    assert 0 < found["weights"].sum() < 1
    assert abs(found["alpha"] - mean) < 0.4 * sd
    np.testing.assert_allclose(found["shares"], found["exact"], atol=0.02)
    exact = betabinom.logpmf(counts, left, 1, 3).sum()
    np.testing.assert_allclose(found["log_likelihood"], exact, atol=0.3)


def scans_without_noise_is_right(found, example):
    np.testing.assert_array_equal(found["total"], np.cumsum(np.arange(1, 11)))
    annuity = 10 * (1.05 ** np.arange(1, 21) - 1) / 0.05
    np.testing.assert_allclose(found["balance"], annuity, rtol=1e-5)
    assert abs(found["rate"] - 0.05) < 0.005


def random_walk_is_right(found, example):
    assert found["one"].shape == (20,)
    assert found["many"].shape == (20, 5)
    assert found["rms_error"] < 1


def stochastic_volatility_is_right(found, example):
    assert 0.5 < found["phi"] < 1
    assert np.isfinite(found["log_likelihood"])


CHECKS = {
    "autoregression_through_a_level": level_is_right,
    "grid_walk": grid_walk_is_right,
    "lags_and_inputs": lags_and_inputs_is_right,
    "random_walk": random_walk_is_right,
    "scans_without_noise": scans_without_noise_is_right,
    "stick_breaking": stick_breaking_is_right,
    "stochastic_volatility": stochastic_volatility_is_right,
}


def test_every_example_is_checked():
    assert {path.stem for path in EXAMPLES} == set(CHECKS)


LONG = {"autoregression_through_a_level", "grid_walk", "lags_and_inputs", "scans_without_noise", "stick_breaking"}


def marked(path):
    return pytest.param(path, marks=pytest.mark.heavy if path.stem in LONG else pytest.mark.slow, id=path.stem)


@pytest.mark.parametrize("path", [marked(path) for path in EXAMPLES])
def test_an_example_is_right(path, capsys):
    example = load_example(path)
    CHECKS[path.stem](example.main(jax.random.key(0), quick=True), example)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_an_example_gives_the_same_again():
    example = load_example(next(path for path in EXAMPLES if path.stem == "random_walk"))
    found, again = (example.main(jax.random.key(0), quick=True) for _ in range(2))
    for name, value in found.items():
        np.testing.assert_array_equal(value, again[name], err_msg=name)


@pytest.mark.slow
def test_the_demo_writes_figures_and_results(tmp_path, capsys):
    results = run_demo(tmp_path / "made" / "here", quick=True)
    written = {path.name for path in (tmp_path / "made" / "here").iterdir()}
    figures = {"states", "filtered", "ess", "agreement", "posterior-mu", "posterior-phi", "posterior-sigma"}
    assert written == {f"{name}.png" for name in figures} | {f"{name}.nc" for name in results}
    for name, result in results.items():
        loaded = ssmscan.load(tmp_path / "made" / "here" / f"{name}.nc")
        np.testing.assert_array_equal(loaded.draws["phi"], result.draws["phi"])
    printed = capsys.readouterr().out
    assert "Cross-check of nuts and importance: " in printed
    # how many draws there were time for depends on the machine: the last words say whether they are enough
    end = " ".join(printed[printed.index("posterior-sigma.png") :].split())
    for name, result in results.items():
        concerns = " ".join(result.concerns())
        trust = "not to be trusted as it is. " if concerns else "nothing speaks against it. "
        assert f"{name}: {trust}{concerns}" in end


def test_the_command_line_names_its_commands(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([])


def test_the_demo_ships_the_example():
    shipped = ROOT / "ssmscan" / "stochastic_volatility.py"
    assert shipped.read_bytes() == (ROOT / "examples" / "stochastic_volatility.py").read_bytes()
