"""Factor SSM with 3 latent sites and 3 observed channels per step, NaN-missing channels masked by handlers.mask inside,
regime-indexed parameters through xs tuple, count + lognormal + logit-normal likelihoods.

The structure follows public practice; code and data are our own.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan


def model(data, regime, K=2):
    T = data["n"].shape[0]
    R = int(np.max(np.asarray(regime))) + 1
    mu = numpyro.sample("mu", dist.Normal(0, 1).expand((R, K)).to_event(2))
    Phi = jnp.tanh(numpyro.sample("Phi_raw", dist.Normal(0, 0.3).expand((R, 2, 2)).to_event(3)))
    G = numpyro.sample("G", dist.Normal(0, 1).expand((K, 2)).to_event(2))
    tau = numpyro.deterministic("tau", numpyro.sample("tau_raw", dist.HalfNormal(0.5).expand((K,)).to_event(1)) + 1e-3)
    conc = numpyro.sample("conc", dist.HalfNormal(10.0).expand((K,)).to_event(1))
    kap = numpyro.sample("kap", dist.HalfNormal(0.5))
    f0 = numpyro.sample("f0", dist.Normal(0, 1).expand((2,)).to_event(1))

    def step(carry, v):
        f, eta = carry
        z, n, b, e = v
        f = numpyro.sample("f", dist.Normal(Phi[z] @ f, 0.5).to_event(1))
        eta = numpyro.sample("eta", dist.Normal(mu[z] + G @ f, tau).to_event(1))
        zeta = numpyro.sample("zeta", dist.Normal(0.2 * eta, 0.3).to_event(1))
        numpyro.sample("N", dist.NegativeBinomial2(jnp.exp(jnp.clip(eta, -10, 10)), conc + 1e-2).to_event(1), obs=n)
        bm = ~jnp.isnan(b)
        with handlers.mask(mask=bm):
            numpyro.sample("B", dist.LogNormal(zeta, kap + 1e-2), obs=jnp.where(bm, b, 1.0))
        em = ~jnp.isnan(e)
        with handlers.mask(mask=em):
            numpyro.sample("E", dist.Normal(eta[0], 1.0), obs=jnp.where(em, e, 0.0))
        return (f, eta), (eta, zeta)

    _, (eta, _z) = scan(step, (f0, jnp.zeros(K)), (regime, data["n"], data["b"], data["e"]), length=T)
    numpyro.deterministic("rate", jnp.exp(eta))


_r = np.random.default_rng(16)
_b = np.exp(_r.normal(size=(10, 2)))
_b[2, 0] = np.nan
_b[5] = np.nan
_e = _r.normal(size=10)
_e[3] = np.nan
model_args = (
    dict(n=jnp.asarray(_r.poisson(3, size=(10, 2))), b=jnp.asarray(_b), e=jnp.asarray(_e)),
    jnp.asarray(_r.integers(0, 2, size=10)),
)
model_kwargs = {}
OBS = ["N", "B", "E"]
LATENT_IN_SCAN = ["f", "eta", "zeta"]
