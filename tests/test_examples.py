"""Every example computes what is known of its model and data, and finds what was published; the demo runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import pyplot as plt
from scipy.special import expit, logsumexp
from scipy.stats import binom, halfnorm, nbinom, norm, poisson

import ssmscan
from ssmscan import datasets
from ssmscan.__main__ import main
from ssmscan.demo import run as run_demo
from tests.truth import LinearGaussian, linear_gaussian, point_mass_filter

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def load_example(path):
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def near(found, exact, within):
    """Compare a log likelihood with its truth; within is four sds of the filter's estimate, or rounding."""
    assert abs(float(found["log_likelihood"]) - exact) < within


def local_level_is_right(found, example):
    level, flow = (example.DURBIN_KOOPMAN[name] ** 2 for name in ("sd_level", "sd_flow"))
    model = LinearGaussian.scalar(m=1000.0, P=500.0**2 + level, F=1.0, Q=level, H=1.0, R=flow)
    near(found, linear_gaussian(model, datasets.nile().values[:, None]).log_likelihood, 0.02)


def stochastic_volatility_is_right(found, example):
    near(found, -492.4542, 1.2)  # by a grid filter


def epidemic_is_right(found, example):
    """A particle filter in NumPy, with ten times as many particles."""
    rng, n = np.random.default_rng(0), 20_000
    r0, days, k = example.MURRAY["R0"], example.MURRAY["days"], 1 / example.MURRAY["dispersion"]
    ill = 1 + rng.poisson(1.0, n)
    susceptible, log_likelihood = 763 - ill, 0.0
    for y in datasets.influenza().values:
        for _ in range(4):
            infected = rng.binomial(susceptible, -np.expm1(-r0 * ill / 763 / (4 * days)))
            ill, susceptible = ill + infected - rng.binomial(ill, -np.expm1(-1 / (4 * days))), susceptible - infected
        log_weight = nbinom.logpmf(y, k, k / (k + ill + 1e-3))
        log_likelihood += logsumexp(log_weight) - np.log(n)
        chosen = rng.choice(n, n, p=np.exp(log_weight - logsumexp(log_weight)))
        ill, susceptible = ill[chosen], susceptible[chosen]
    near(found, log_likelihood, 0.6)


def autoregression(phi, sigma, log_emission, grid):
    """Return the log likelihood of a stationary autoregression by a filter on a grid; log_emission (T, G)."""
    start = norm.pdf(grid, 0.0, sigma / np.sqrt(1 - phi**2))
    return point_mass_filter(grid, start, norm.pdf(grid, phi * grid[:, None], sigma), log_emission).log_likelihood


def counts_with_trend_is_right(found, example):
    theta, cases, grid = example.NEAR, datasets.polio().values, np.linspace(-5.0, 6.0, 400)
    month = np.arange(1, 169)
    angle = 2 * np.pi * np.outer([1, 2], month) / 12
    harmonics = np.stack([np.cos(angle[0]), np.sin(angle[0]), np.cos(angle[1]), np.sin(angle[1])])
    known = theta["intercept"] + theta["trend"] * (month - 73) / 1000 + theta["season"] @ harmonics
    log_emission = poisson.logpmf(cases[:, None], np.exp(known[:, None] + grid))
    near(found, autoregression(theta["phi"], theta["sigma"], log_emission, grid), 1.0)


def regime_switching_is_right(found, example):
    near(found, -181.26339, 0.01)  # Hamilton (1989), to more digits by Stata in the tests of statsmodels
    quarters, probability = datasets.gnp().time, np.asarray(found["expansion"])
    depths = np.array(["1954-01", "1958-01", "1970-04", "1974-10", "1981-10"], "datetime64[M]")
    assert (probability[np.isin(quarters, depths)] < 0.5).all() and np.median(probability) > 0.9


def panel_is_right(found, example):
    theta, grid = example.NEAR, np.linspace(-4.0, 4.0, 300)
    data, exact = datasets.epilepsy(), 0.0
    for patient, known in zip(data.values.T, found["covariates"] @ theta["beta"][:5]):
        last = theta["beta"][5] * np.array([[0.0], [0.0], [0.0], [1.0]])
        log_emission = poisson.logpmf(patient[:, None], np.exp(known + last + grid))
        exact += autoregression(theta["phi"], theta["sigma"], log_emission, grid)
    near(found, exact, 0.8)


def tracking_is_right(found, example):
    """A Kalman filter in NumPy."""
    theta, exact = example.NEAR, 0.0
    a, sd = theta["persistence"], theta["speed"]
    move = np.array([[1.0, example.HOURS * a], [0.0, a]])
    kick = np.array([example.HOURS, 1.0]) * sd * np.sqrt(1 - a**2)
    for axis in (0, 1):
        mean, cov = np.zeros(2), np.zeros((2, 2))
        for y, quality in zip(found["seen"][:, axis], found["classes"]):
            mean, cov = move @ mean, move @ cov @ move.T + np.outer(kick, kick)
            if np.isfinite(y):
                variance = cov[0, 0] + theta["error"][quality] ** 2
                exact += norm.logpdf(y, mean[0], np.sqrt(variance))
                gain = cov[:, 0] / variance
                mean, cov = mean + gain * (y - mean[0]), cov - np.outer(gain, cov[0])
    near(found, exact, 0.01)


def spike_counts_is_right(found, example):
    grid, sigma = np.linspace(-7.0, 1.0, 600), example.NEAR["sigma"]
    log_emission = binom.logpmf(datasets.thalamus().values[:200, None], 50, expit(grid))
    start = norm.pdf(grid, -3.0, np.sqrt(2.0**2 + sigma**2))
    near(found, point_mass_filter(grid, start, norm.pdf(grid, grid[:, None], sigma), log_emission).log_likelihood, 0.5)


def capture_recapture_is_right(found, example):
    ordinary, flood = example.LEBRETON["survival"]
    survival, p = np.array([ordinary, flood, flood, ordinary, ordinary, ordinary]), example.LEBRETON["recapture"]
    unseen = np.ones(7)  # probability of not being seen again after each season
    for t in range(5, -1, -1):
        unseen[t] = 1 - survival[t] + survival[t] * (1 - p) * unseen[t + 1]
    exact = 0.0
    for history in datasets.dippers().values.T:
        seen = np.flatnonzero(history)
        between = np.arange(seen[0], seen[-1])
        exact += np.log(survival[between]).sum() + np.log(np.where(history[between + 1] == 1, p, 1 - p)).sum()
        exact += np.log(unseen[seen[-1]])
    near(found, exact, 0.01)


def learning_is_right(found, example):
    avoided = datasets.dogs().values
    avoidances, shocks = np.cumsum(avoided, axis=0)[:-1], np.cumsum(1 - avoided, axis=0)[:-1]
    shocked = example.BUGS["A"] ** avoidances * example.BUGS["B"] ** shocks
    near(found, np.log(np.where(avoided[1:] == 1, 1 - shocked, shocked)).sum(), 0.01)


def season_and_forecast_is_right(found, example):
    level, season, noise = (example.NEAR[name] ** 2 for name in ("sd_level", "sd_season", "sd_births"))
    move = np.zeros((7, 7))  # the level, and the last six seasons
    move[0, 0], move[1, 1:], move[2:, 1:-1] = 1.0, -1.0, np.eye(5)
    drive = np.diag([level, season, 0, 0, 0, 0, 0])
    look = np.array([[1.0, 1.0, 0, 0, 0, 0, 0]])
    model = LinearGaussian(
        m=move @ np.array([9.0, *np.zeros(6)]), P=move @ move.T + drive, F=move, Q=drive, H=look, R=np.array([[noise]])
    )
    near(found, linear_gaussian(model, found["seen"][:, None]).log_likelihood, 0.05)


def model_comparison_is_right(found, example):
    """Both evidences by quadrature: over two standard deviations, and over one and the year of the change."""
    flow = datasets.nile().values
    sds, step = np.linspace(0.5, 400.0, 200, retstep=True)
    sd_level, sd_flow = sds[None, :] / 2, sds[:, None]
    mean, variance, log_level = 1000.0, 500.0**2, 0.0
    for y in flow:
        predicted = variance + sd_level**2 + sd_flow**2
        log_level = log_level + norm.logpdf(y, mean, np.sqrt(predicted))
        gain = (variance + sd_level**2) / predicted
        mean, variance = mean + gain * (y - mean), gain * sd_flow**2
    log_level = log_level + halfnorm.logpdf(sd_level, scale=100.0) + halfnorm.logpdf(sd_flow, scale=200.0)

    def log_part(values):  # (sds,) log density of values that share a mean ~ N(1000, 500)
        n, residual = len(values), values - 1000.0
        shrunk = residual.sum() ** 2 * 500.0**2 / (sds**2 + n * 500.0**2)
        quadratic = ((residual**2).sum() - shrunk) / sds**2
        return -0.5 * (n * np.log(2 * np.pi * sds**2) + np.log1p(n * 500.0**2 / sds**2) + quadratic)

    year = np.arange(101)  # steps before the change, 100 if there is none
    log_year = year * np.log(0.99) + np.where(year < 100, np.log(0.01), 0.0)
    log_change = np.array([w + log_part(flow[:k]) + log_part(flow[k:]) for k, w in zip(year, log_year)])
    log_change = log_change + halfnorm.logpdf(sds, scale=200.0)
    for name, exact in (
        ("level", logsumexp(log_level) + 2 * np.log(step) - np.log(2)),
        ("change", logsumexp(log_change) + np.log(step)),
    ):
        assert abs(found[name].log_evidence - exact) < 5 * found[name].log_evidence_error + 0.02


def posterior(found, name):
    """Return mean and sd of a scalar of the result of a full run."""
    summary = found["result"].summaries[name]
    return summary.mean.value, summary.sd.value


FULL = {
    "local_level": lambda found: found["comparison"].verdict is ssmscan.Verdict.AGREE,
    "stochastic_volatility": lambda found: found["log_likelihood"] > -492.45 + 5,
    "epidemic": lambda found: abs(posterior(found, "R0")[0] - 3.65) < 2 * posterior(found, "R0")[1],
    "counts_with_trend": lambda found: (
        found["verdict"] is ssmscan.Verdict.AGREE
        and abs(posterior(found, "trend")[0] + 3.8) < posterior(found, "trend")[1]
    ),
    "regime_switching": lambda found: abs(posterior(found, "stay")[0] - 0.904) < 2 * posterior(found, "stay")[1],
    "panel": lambda found: abs(posterior(found, "beta[treated]")[0] + 0.93) < posterior(found, "beta[treated]")[1],
    "tracking": lambda found: 0.5 < posterior(found, "persistence")[0] < 1.0,
    "spike_counts": lambda found: found["sd_ahead"] < 0.2 * found["sd_bootstrap"],
    "capture_recapture": lambda found: (
        found["verdict"] is ssmscan.Verdict.AGREE and abs(posterior(found, "survival[1]")[0] - 0.469) < 0.02
    ),
    "learning": lambda found: (
        found["verdict"] is ssmscan.Verdict.AGREE
        and abs(posterior(found, "A")[0] - 0.783) < 0.005
        and abs(posterior(found, "B")[0] - 0.924) < 0.005
    ),
    "season_and_forecast": lambda found: found["inside"] > 0.7,
    "model_comparison": lambda found: found["change"].log_evidence - found["level"].log_evidence > 3,
}
"""What a full run must find: what was published, within its uncertainty."""

CHECKS = {name: globals()[f"{name}_is_right"] for name in FULL}
HEAVY = pytest.mark.heavy


def test_every_example_is_checked():
    assert {path.stem for path in EXAMPLES} == set(FULL)
    pictured = re.findall(r"figures/(\w+)\.png", (ROOT / "docs" / "gallery.md").read_text())
    assert {path.stem for path in (ROOT / "docs" / "figures").glob("*.png")} == set(pictured) <= set(FULL)
    paragraphs = re.findall(r"^`examples/(\w+)\.py`", (ROOT / "docs" / "gallery.md").read_text(), re.MULTILINE)
    assert sorted(paragraphs) == sorted(FULL)


LONG = {"epidemic", "model_comparison"}
"""Of half a minute and more even in their short form."""


def marked(path):
    return pytest.param(path, marks=HEAVY if path.stem in LONG else pytest.mark.slow, id=path.stem)


@pytest.mark.parametrize("path", [*map(marked, EXAMPLES)])
def test_an_example_computes_what_is_known(path, capsys):
    example = load_example(path)
    found = example.main(jax.random.key(0), quick=True)
    plt.close(found["figure"])
    CHECKS[path.stem](found, example)
    assert capsys.readouterr().out


@HEAVY
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_finds_what_was_published(path):
    found = load_example(path).main(jax.random.key(0))
    plt.close(found["figure"])
    assert FULL[path.stem](found)


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
