"""Marketing mix: deterministic adstock recursion recorded inside, random-walk base, StudentT obs inside, xs tuple (y,
media, structural, time index), seasonal table lookup.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(X, y=None, media=None, period=4):
    T, M = media.shape
    ret = numpyro.sample("ret", dist.Beta(2, 2).expand([M]).to_event(1))
    imp = numpyro.sample("imp", dist.HalfNormal(1.0).expand([M]).to_event(1))
    drift = numpyro.sample("drift", dist.HalfNormal(0.1))
    sd = numpyro.sample("sd", dist.HalfCauchy(1.0))
    b0 = numpyro.sample("b0", dist.Beta(2, 2))
    seas = numpyro.sample("seas", dist.Normal(0, 1).expand([period]).to_event(1))
    struct = X @ numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[-1]]).to_event(1))

    def step(carry, cur):
        base, ad = carry
        yt, m, st, t = cur
        ad = numpyro.deterministic("adstock", ret * ad + m * imp)
        base = numpyro.sample("base", dist.Normal(base, drift))
        yt = numpyro.sample("y", dist.StudentT(4.0, base + st + seas[t % period] + ad.sum(), sd), obs=yt)
        return (base, ad), yt

    _, out = scan(step, (b0, jnp.zeros_like(ret)), (y, media, struct, jnp.arange(T)))
    return out


_r = np.random.default_rng(13)
model_args = (jnp.asarray(_r.normal(size=(14, 2))),)
model_kwargs = dict(y=jnp.asarray(_r.normal(size=14)), media=jnp.asarray(_r.exponential(size=(14, 2))))
simulate_args, simulate_kwargs = model_args, dict(media=model_kwargs["media"])
OBS = ["y"]
LATENT_IN_SCAN = ["base"]
