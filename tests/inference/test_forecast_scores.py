"""Forecast scores and leave-future-out against the exact posterior at every origin, on a grid of parameter values."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import ssmscan
from ssmscan.inference.forecast_scores import one_loop, origins_of
from ssmscan.results.data import Costs
from ssmscan.results.scoring_rules import standard_error
from tests.inference.models import NOISE, Y
from tests.truth import LinearGaussian, z_threshold
from tests.truth import linear_gaussian as solve

KEY = jax.random.key(0)
FIRST, AHEAD, DRAWS, ALL = 4, 3, 2000, len(Y)
ORIGINS = np.arange(FIRST, len(Y))


def drawn(observed=None, **draws):
    """Return a result that has these draws, (chains, draws)."""
    made = {name: np.asarray(values, np.float32) for name, values in draws.items()}
    costs = Costs(0.0, 0.0, 0.0)
    fields = {"states": {}, "state_draws": [], "sample_stats": {}, "settings": {}, "versions": {}}
    return ssmscan.Result(engine="by hand", draws=made, costs=costs, observed=observed or {}, **fields)


class Grid:
    """The posterior of rho and q at every origin, q one of a few values, rho on a grid; all in NumPy float64."""

    def __init__(self):
        rho, log_q = np.meshgrid((np.arange(20) + 0.5) / 20, np.linspace(-2.3, 1.3, 13), indexing="ij")
        self.rho, self.q = rho.ravel(), np.exp(log_q.ravel())
        self.log_prior = norm.logpdf(log_q.ravel(), -0.5, 0.5)
        solved = [
            solve(LinearGaussian.scalar(0.0, r**2 + q**2, r, q**2, 1.0, NOISE**2), Y[:, None])
            for r, q in zip(self.rho, self.q)
        ]
        self.increments = np.stack([one.increments for one in solved])
        mean = np.stack([one.filtered_mean[:, 0] for one in solved])
        var = np.stack([one.filtered_cov[:, 0, 0] for one in solved])
        powers = self.rho[:, None] ** (2 * np.arange(AHEAD))
        self.mean = mean * self.rho[:, None] ** AHEAD
        self.sd = np.sqrt(
            var * self.rho[:, None] ** (2 * AHEAD) + self.q[:, None] ** 2 * powers.sum(1)[:, None] + NOISE**2
        )

    def log_posterior(self, seen):
        given = self.log_prior + self.increments[:, :seen].sum(1)
        return given - logsumexp(given)

    def draw(self, seed, count, seen=ALL):
        chosen = np.random.default_rng(seed).choice(len(self.rho), count, p=np.exp(self.log_posterior(seen)))
        return {"rho": self.rho[chosen][None], "q": self.q[chosen][None]}

    def one_ahead(self, origins=ORIGINS, together=1):
        window = [self.increments[:, t : t + together].sum(1) for t in origins]
        return np.array([logsumexp(self.log_posterior(t) + ahead) for t, ahead in zip(origins, window)])

    def far_ahead(self):
        """Log score and CRPS of what is `AHEAD` steps ahead, of a mixture of normal laws (Grimit et al. 2006)."""
        scores, crps = [], []
        for t in ORIGINS[: len(Y) - FIRST - AHEAD + 1]:
            w, y = np.exp(self.log_posterior(t)), Y[t + AHEAD - 1]
            mean, sd = self.mean[:, t - 1], self.sd[:, t - 1]
            scores.append(logsumexp(np.log(w) + norm.logpdf(y, mean, sd)))
            pairs = mean_distance(mean[:, None] - mean, np.hypot(sd[:, None], sd))
            crps.append(w @ mean_distance(y - mean, sd) - 0.5 * w @ pairs @ w)
        return np.array(scores), np.array(crps)


def mean_distance(mean, sd):
    return 2 * sd * norm.pdf(mean / sd) + mean * (2 * norm.cdf(mean / sd) - 1)


@pytest.fixture(scope="module")
def grid():
    return Grid()


def scores_of(ssm, result, **settings):
    return ssmscan.forecast_scores(KEY, ssm, result, num_draws=DRAWS, progress=False, **settings)


@pytest.fixture(scope="module")
def found(linear, grid):
    return scores_of(linear, drawn(**grid.draw(0, DRAWS)), horizons=(1, AHEAD), first_origin=FIRST)


def of_equal_weights(grid, seed):
    """The sum of log scores one step ahead of draws that have seen the future."""
    chosen = np.random.default_rng(seed).choice(len(grid.rho), DRAWS, p=np.exp(grid.log_posterior(len(Y))))
    return logsumexp(grid.increments[chosen][:, FIRST:], axis=0).sum() - len(ORIGINS) * np.log(DRAWS)


@pytest.mark.slow
def test_log_scores_are_those_of_the_exact_posterior_at_each_origin(grid, found):
    """One step ahead the sum is off by what draws cost; the same draws unweighted are rejected."""
    limit = z_threshold(2) * found.monte_carlo_error
    assert abs(found.log_score[0] - grid.one_ahead().sum()) < limit[0] < 0.2
    far = grid.far_ahead()[0]
    assert abs(np.nansum(found.log_scores[:, 1]) - far.sum()) < limit[1] + 0.02
    np.testing.assert_allclose(found.log_scores[:, 0], grid.one_ahead(), atol=0.05)
    assert np.isnan(found.log_scores[len(far) :, 1]).all()
    assert abs(of_equal_weights(grid, 0) - grid.one_ahead().sum()) > limit[0]


@pytest.mark.slow
def test_crps_and_pit_are_those_of_the_mixture(grid, found):
    exact = grid.far_ahead()[1]
    np.testing.assert_allclose(found.crps["y"][: len(exact), 1], exact, atol=0.02)
    t, w = FIRST, np.exp(grid.log_posterior(FIRST))
    cdf = w @ norm.cdf(Y[t + AHEAD - 1], grid.mean[:, t - 1], grid.sd[:, t - 1])
    assert abs(found.pit["y"][0, 1] - cdf) < 0.01
    assert found.pit["y"].shape == (len(ORIGINS), 2)


@pytest.mark.slow
def test_what_is_printed(found):
    text = str(found)
    assert "steps ahead" in text and "CRPS y" in text and "Kalman" in text
    assert "<table>" in found._repr_html_()
    assert found.weights.num_draws == DRAWS and not found.weights.noise.any()


def test_leave_future_out_is_the_exact_one_together_too(linear, grid):
    result = drawn(**grid.draw(1, DRAWS))
    for together in (1, AHEAD):
        lfo = ssmscan.leave_future_out(
            KEY, linear, result, first_origin=FIRST, horizon=together, num_draws=DRAWS, progress=False
        )
        truth = grid.one_ahead(lfo.origins, together)
        assert abs(lfo.elpd_lfo - truth.sum()) < z_threshold() * lfo.monte_carlo_error < 0.3
        assert len(lfo.origins) == len(Y) - FIRST - together + 1
    assert "Leave-one-out cross-validation is wrong here" in str(lfo)


def test_an_origin_from_which_nothing_is_seen_has_no_score(linear, grid):
    """It would count as a perfect forecast, in the standard error too."""
    y = np.array(Y)
    y[[FIRST + 2, FIRST + 3]] = np.nan
    gaps, result = linear.with_data(y), drawn(**grid.draw(1, 50))

    def lfo(horizon):
        return ssmscan.leave_future_out(KEY, gaps, result, first_origin=FIRST, horizon=horizon, progress=False)

    one, two = lfo(1), lfo(2)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(one.pointwise)), [2, 3])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(two.pointwise)), [2])
    assert one.standard_error == pytest.approx(standard_error(np.delete(one.pointwise, [2, 3]), 1), rel=0.3)


def test_draws_of_the_first_observations_are_weighed_forward(linear, grid):
    """They have not seen what they predict; the weights take in what has come by each origin."""
    result = drawn({"y": Y[:7]}, **grid.draw(2, DRAWS, seen=7))
    lfo = ssmscan.leave_future_out(KEY, linear, result, first_origin=7, num_draws=DRAWS, progress=False)
    truth = grid.one_ahead(lfo.origins).sum()
    assert abs(lfo.elpd_lfo - truth) < z_threshold() * lfo.monte_carlo_error < 0.3
    assert lfo.weights.tail_index[0] == -np.inf
    with pytest.raises(ValueError, match="of other observations of 'y'"):
        ssmscan.leave_future_out(KEY, linear, drawn({"y": Y[:7] + 1}, **grid.draw(2, 8)), progress=False)


def test_parameters_are_sampled_anew_where_draws_say_too_little(linear, grid):
    """Sixty draws given a much later end say nothing of the first origins."""
    asked = []

    def refit(t):
        asked.append(t)
        return drawn({"y": Y[:t]}, **grid.draw(t, 60, seen=t))

    settings = {"first_origin": 1, "num_draws": 60, "progress": False}
    poor = ssmscan.leave_future_out(KEY, linear, drawn(**grid.draw(3, 60)), **settings)
    better = ssmscan.leave_future_out(KEY, linear, drawn(**grid.draw(3, 60)), refit=refit, **settings)
    assert "k-hat is above" in poor.concerns()[0] and "refit=" in poor.concerns()[0]
    assert tuple(asked) == better.weights.refits and asked == sorted(asked, reverse=True)
    assert (better.weights.tail_index <= better.weights.limit).all() and not better.concerns()
    truth = grid.one_ahead(better.origins).sum()
    assert abs(better.elpd_lfo - truth) < z_threshold() * better.monte_carlo_error
    with pytest.raises(ValueError, match="returned a result of 12 observations"):
        ssmscan.leave_future_out(
            KEY, linear, drawn(**grid.draw(3, 60)), refit=lambda t: drawn(**grid.draw(3, 60)), **settings
        )


@pytest.mark.slow
def test_noise_of_filters_makes_no_score_too_low(linear, grid):
    """Of 40 particles; weights from the filters that are scored are rejected: they take the harmonic mean."""
    result = drawn(rho=np.full((1, DRAWS), 0.6), q=np.full((1, DRAWS), 0.8))
    lfo = ssmscan.leave_future_out(
        KEY, linear, result, first_origin=FIRST, num_draws=DRAWS, progress=False, estimator=ssmscan.ParticleFilter(40)
    )
    model = LinearGaussian.scalar(0.0, 1.0, 0.6, 0.64, 1.0, NOISE**2)
    truth = solve(model, Y[:, None]).increments[FIRST:].sum()
    limit = z_threshold() * lfo.monte_carlo_error
    assert abs(lfo.elpd_lfo - truth) < limit < 0.2
    assert 0.2 < lfo.weights.noise[0] < 2.0
    variances = np.diff(lfo.weights.noise[::-1] ** 2, prepend=0.0)
    assert variances.sum() > limit


@pytest.mark.slow
def test_two_models_are_compared_on_the_same_forecasts(linear, grid, found):
    settings = {"first_origin": FIRST, "num_draws": DRAWS, "progress": False}
    far = drawn(rho=np.full((1, DRAWS), 0.1), q=np.full((1, DRAWS), 2.0))
    good, bad = (
        ssmscan.leave_future_out(KEY, linear, result, **settings) for result in (drawn(**grid.draw(0, DRAWS)), far)
    )
    gap = good - bad
    assert gap.log_score[0] == pytest.approx(good.elpd_lfo - bad.elpd_lfo) and gap.log_score[0] > 0
    assert "speak for the first" in str(gap)
    worse = dataclasses.replace(found, log_scores=found.log_scores - 0.1, crps={"y": found.crps["y"] + 0.2})
    gap = found - worse
    np.testing.assert_allclose(gap.log_score, 0.1 * np.isfinite(found.log_scores).sum(0), rtol=1e-6)
    np.testing.assert_allclose(np.nanmean(gap.crps["y"], axis=0), -0.2)
    np.testing.assert_allclose(gap.log_score_error, 0.0, atol=1e-6)
    with pytest.raises(ValueError, match="origins differ"):
        found - dataclasses.replace(worse, origins=worse.origins + 1)
    with pytest.raises(ValueError, match="horizons differ"):
        good - dataclasses.replace(bad, horizon=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"horizons": (0,)}, "horizons"),
        ({"horizons": ()}, "horizons"),
        ({"horizons": (9,), "first_origin": 4}, "first_origin is 4"),
        ({"first_origin": 0}, "first_origin"),
        ({"estimator": ssmscan.ParticleFilter(16, proposal=ssmscan.LookAhead())}, "know later data|has seen"),
    ],
)
def test_what_cannot_be_scored_is_refused(linear, grid, settings, message):
    with pytest.raises(ValueError, match=message):
        ssmscan.forecast_scores(KEY, linear, drawn(**grid.draw(0, 8)), progress=False, **settings)


def test_several_loops_have_no_time_in_common():
    with pytest.raises(ValueError, match=r"2 independent loops.*ssm\.loops\[k\]"):
        one_loop(SimpleNamespace(loops=(0, 1)))
    assert origins_of(SimpleNamespace(num_steps=10), None, 2).tolist() == [5, 6, 7, 8]
