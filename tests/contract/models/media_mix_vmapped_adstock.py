"""Media mix: adstock by a scan without sites under `vmap` over the channels, in the transition a second one over
lags, a base level with `LocScaleReparam()` in the transition, spend and sales as pandas Series.

The structure follows public practice; code and data are our own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer.reparam import LocScaleReparam


def adstock(spend, decay):
    return scan(lambda stock, s: (decay * stock + s,) * 2, 0.0, spend)[1]


def model(sales, spend, future=0):
    channels = spend.shape[1]
    with numpyro.plate("channel", channels):
        decay = numpyro.sample("decay", dist.Beta(2.0, 2.0))
        gain = numpyro.sample("gain", dist.HalfNormal(1.0))
    sd = numpyro.sample("sd", dist.HalfNormal(0.5))
    noise = numpyro.sample("noise", dist.HalfNormal(0.5))
    base0 = numpyro.sample("base0", dist.Normal(1.0, 1.0))
    stock = jax.vmap(adstock, in_axes=(1, 0), out_axes=1)(jnp.asarray(spend.values), decay)

    def week(base, inputs):
        y, s = inputs
        with handlers.reparam(config={"base": LocScaleReparam()}):
            base = numpyro.sample("base", dist.Normal(base, sd))
        saturated = jax.vmap(lambda x, g: scan(lambda z, _: (z + g * jnp.exp(-z), None), 0.0, None, length=2)[0] * x)
        numpyro.sample("sales", dist.Normal(base + jnp.sum(saturated(s, gain)), noise), obs=y)
        return base, None

    scan(week, base0, (sales, stock))


def twin(sales, spend):
    """The same over an array, as NumPyro's scan takes it."""
    model(jnp.asarray(sales.values), spend)


_r = np.random.default_rng(34)
_weeks = pd.date_range("2023-01-01", periods=8, freq="W")
_spend = pd.DataFrame(_r.exponential(size=(8, 3)), index=_weeks, columns=["tv", "radio", "web"])
model_args = (pd.Series(1.0 + 0.4 * _spend.sum(axis=1) + 0.3 * _r.normal(size=8), index=_weeks), _spend)
model_kwargs = {}
OBS = ["sales"]
LATENT_IN_SCAN = ["base_decentered"]
