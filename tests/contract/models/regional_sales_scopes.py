"""Two regions, each a sub-model under `handlers.scope` with its own scan, conditioned from outside by the scoped names;
in the transition an f-string site beside a plain one and `LocScaleReparam()` with its default; a `lift` around all.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam


def region(length, drift, spread):
    start = numpyro.sample("start", dist.Normal(0.0, 1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(0.5))

    def week(level, t):
        with handlers.reparam(config={"level": LocScaleReparam()}):
            level = numpyro.sample("level", dist.Normal(level + drift, spread))
        promotion = numpyro.sample(f"level_{t}", dist.Normal(0.0, 0.3))
        numpyro.sample("sales", dist.Normal(level + promotion, noise))
        return level, level

    return scan(week, start, jnp.arange(length))[1]


def regions(length):
    drift = numpyro.sample("drift", dist.Normal(0.0, 0.2))
    spread = numpyro.sample("spread", dist.HalfNormal(0.5))
    north = handlers.scope(region, prefix="north")(length, drift, spread)
    south = handlers.scope(region, prefix="south", divider=".")(length, drift, spread)
    numpyro.deterministic("gap", north - south)


def model(north, south, future=0):
    shrunk = handlers.reparam(regions, config={"drift": LocScaleReparam()})
    lifted = handlers.lift(shrunk, prior={"drift_centered": dist.Uniform(0.0, 1.0)})
    handlers.condition(lifted, data={"north/sales": north, "south.sales": south})(len(north) + future)


def twin(north, south):
    """The same with the names written out, by which NumPyro gives values to the sites of a loop, and no reparam."""
    centered = numpyro.sample("drift_centered", dist.Uniform(0.0, 1.0))
    raw = numpyro.sample("drift_decentered", dist.Normal(0.0, 0.2**centered))
    drift, spread = 0.2 ** (1.0 - centered) * raw, numpyro.sample("spread", dist.HalfNormal(0.5))
    for prefix, sales in (("north/", north), ("south.", south)):
        start = numpyro.sample(f"{prefix}start", dist.Normal(0.0, 1.0))
        noise = numpyro.sample(f"{prefix}noise", dist.HalfNormal(0.5))

        def week(level, y, prefix=prefix, noise=noise):
            level = numpyro.sample(f"{prefix}level", dist.Normal(level + drift, spread))
            promotion = numpyro.sample(f"{prefix}promotion", dist.Normal(0.0, 0.3))
            numpyro.sample(f"{prefix}sales", dist.Normal(level + promotion, noise), obs=y)
            return level, None

        scan(week, start, jnp.asarray(sales))


_r = np.random.default_rng(31)
model_args = tuple(np.cumsum(0.1 + 0.3 * _r.normal(size=(2, 8)), axis=1) + 0.2 * _r.normal(size=(2, 8)))
model_kwargs = {}
predict_kwargs = dict(future=3)
OBS = ["north/sales", "south.sales"]
LATENT_IN_SCAN = ["north/level_decentered", "north/level__2", "south.level_decentered", "south.level__2"]
