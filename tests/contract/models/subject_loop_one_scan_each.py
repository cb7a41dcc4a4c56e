"""Irregularly sampled OU process per subject: python loop, one scan per subject with subject-suffixed site names
(static f-string), ragged lengths, xs = (t_prev, t_curr), observed AFTER on concatenated paths through a loading
matrix.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(times, y, K=2):
    th = numpyro.sample("th", dist.LogNormal(0.0, 0.3).expand([K]))
    m = numpyro.sample("m", dist.Normal(0, 1).expand([K]))
    s = numpyro.sample("s", dist.HalfNormal(0.5).expand([K]))
    so = numpyro.sample("so", dist.HalfNormal(0.3))
    Lam = numpyro.sample("Lam", dist.Normal(0, 0.5).expand([y.shape[1], K]))
    paths = []
    for i, tt in enumerate(times):
        x0 = numpyro.sample(f"x0_{i}", dist.Normal(m, s))

        def step(x, inp, i=i):
            a, b = inp
            phi = jnp.exp(-th * (b - a))
            x = numpyro.sample(
                f"x_{i}", dist.Normal(m + phi * (x - m), jnp.sqrt(jnp.maximum(s**2 * (1 - phi**2), 1e-10)))
            )
            return x, x

        _, path = scan(step, init=x0, xs=(tt[:-1], tt[1:]))
        paths.append(jnp.concatenate([x0[None], path]))
    X = numpyro.deterministic("X", jnp.concatenate(paths))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ Lam.T, so).to_event(1), obs=y)


_r = np.random.default_rng(20)
model_args = ([jnp.asarray(np.sort(_r.random(k) * 5)) for k in (4, 6, 3)], jnp.asarray(_r.normal(size=(13, 3))))
model_kwargs = {}
OBS = ["y"]
LATENT_IN_SCAN = ["x_0", "x_1", "x_2"]
OBS_AFTER_SCAN = True
N_SCANS = 3
