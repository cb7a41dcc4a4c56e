"""A structural series: births in the United States on each day of 1978, with holidays left out and December foretold.

    level_t ~ Normal(level_{t-1}, sd_level),  season_t ~ Normal(-(season_{t-1} + ... + season_{t-6}), sd_season)
    births_t ~ Normal(level_t + season_t, sd_births), in thousands

Hospitals plan few births on holidays.  Left as data, seven such days would widen the noise of all others; as NaN they
are missing, and the model says what would have happened.  It is linear and Gaussian: the importance sampler needs three
standard deviations alone, with level and season integrated out exactly.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

HOLIDAYS = "1978-01-01 1978-01-02 1978-05-29 1978-07-04 1978-09-04 1978-11-23 1978-11-24".split()
KNOWN, NEAR = 337, {"sd_level": 0.03, "sd_season": 0.02, "sd_births": 0.15}


def season_and_level(births):
    """Explain (T,) births by a level that moves and a week that changes slowly."""
    sd_level = numpyro.sample("sd_level", dist.HalfNormal(0.2))
    sd_season = numpyro.sample("sd_season", dist.HalfNormal(0.2))
    sd_births = numpyro.sample("sd_births", dist.HalfNormal(0.5))

    def transition(carry, y):
        level, week = carry
        level = numpyro.sample("level", dist.Normal(level, sd_level))
        season = numpyro.sample("season", dist.Normal(-week.sum(), sd_season))
        numpyro.sample("births", dist.Normal(level + season, sd_births), obs=y)
        return (level, jnp.concatenate([season[None], week[:-1]])), None

    level_0 = numpyro.sample("level_0", dist.Normal(9.0, 1.0))
    week_0 = numpyro.sample("week_0", dist.Normal(0.0, 1.0).expand([6]).to_event(1))
    scan(transition, (level_0, week_0), births)


def main(key, quick=False):
    """Fit the year up to 3 December, forecast the rest, and say how many births each holiday moved."""
    data = datasets.births()
    seen = np.where(np.isin(data.time, np.array(HOLIDAYS, "datetime64")), np.nan, data.values / 1000)
    seen[KNOWN:] = np.nan
    ssm = ssmscan.trace(season_and_level, seen[:KNOWN]).with_labels(time=data.time[:KNOWN])
    print(ssm)
    smooth_key, sampler_key, predict_key = jax.random.split(key, 3)
    if quick:
        published = ssmscan.Smoother(num_paths=1).run(smooth_key, ssm, NEAR)
        ax = ssmscan.plots.states(published, "level", observed=seen[:KNOWN])
        return {"log_likelihood": published.log_likelihood, "seen": seen[:KNOWN], "figure": ax.figure}

    result = ssmscan.ImportanceSampler(target_ess=4000, estimator=ssmscan.ExactLikelihood()).run(sampler_key, ssm)
    print(result.summary())
    year = ssmscan.trace(season_and_level, seen).with_labels(time=data.time)
    forecast = ssmscan.predict(predict_key, year, result)
    low, middle, high = 1000 * np.quantile(forecast["births"], [0.05, 0.5, 0.95], axis=(0, 1))
    for day in [*np.flatnonzero(np.isnan(seen[:KNOWN])), 358]:
        print(f"{data.time[day]}: {data.values[day]:,.0f} births, expected {middle[day]:,.0f}")
    inside = (low < data.values) & (data.values < high)
    print(f"of {365 - KNOWN} days foretold {inside[KNOWN:].sum()} lie in their 90 % intervals")
    ax = ssmscan.plots.forecast(forecast, "births", observed=data.values / 1000, history=63)
    ax.set_ylabel("births, in thousands")
    return {"result": result, "middle": middle, "inside": inside[KNOWN:].mean(), "figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("season_and_forecast.png", dpi=110, bbox_inches="tight")
