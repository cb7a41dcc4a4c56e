"""A vector autoregression of two latent factors with multivariate t innovations, their correlation from an LKJ prior
and their scales from half-Cauchys, as in macroeconomic code; observed with independent noise in a plate.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(Y):
    T, k = Y.shape
    corr = numpyro.sample("corr", dist.LKJCholesky(k, 2.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(0.5).expand([k]).to_event(1))
    rho = numpyro.sample("rho", dist.Uniform(-1.0, 1.0).expand([k]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    scale_tril = tau[:, None] * corr

    def transition(f, Y_t):
        f = numpyro.sample("f", dist.MultivariateStudentT(4.0, rho * f, scale_tril))
        with numpyro.plate("series", k):
            numpyro.sample("Y", dist.Normal(f, sigma + 0.1), obs=Y_t)
        return f, f

    scan(transition, jnp.zeros(k), Y)


model_args = (jnp.asarray(np.random.default_rng(54).standard_t(4, size=(6, 2)) * 0.5, jnp.float32),)
model_kwargs = {}
OBS = ["Y"]
LATENT_IN_SCAN = ["f"]
