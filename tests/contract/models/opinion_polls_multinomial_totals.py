"""Polls in a pandas DataFrame: multinomial counts whose totals vary by week and are data beside `np.array(counts)`, a
Dirichlet-multinomial panel of another institute, the weekday from the index.

The structure follows public practice; code and data are our own.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from jax.scipy.special import betaln, gammaln
from numpyro.contrib.control_flow import scan


def _parts(polls, counts, asked, multinomial, mixed):
    parties = np.array(counts).shape[1]
    sd = numpyro.sample("sd", dist.HalfNormal(0.5))
    precision = numpyro.sample("precision", dist.LogNormal(2.0, 0.5))
    weekend = numpyro.sample("weekend", dist.Normal(0.0, 0.3))
    is_weekend = jnp.asarray((polls.index.day_of_week >= 5).astype(float))

    def week(support, inputs):
        heads, total, other, other_total, late = inputs
        support = numpyro.sample("support", dist.Normal(support, sd).expand((parties - 1,)).to_event(1))
        logits = jnp.concatenate([jnp.zeros(1), support + weekend * late])
        multinomial("polls", total, logits, heads)
        mixed("panel", precision * jax.nn.softmax(logits), other_total, other)
        return support, support

    others = polls[["a", "b", "c"]]
    xs = (counts, asked, jnp.asarray(others.values), jnp.asarray(polls["asked"]), is_weekend)
    scan(week, jnp.zeros(parties - 1), xs)


def model(polls, counts, asked):
    def multinomial(name, total, logits, heads):
        numpyro.sample(name, dist.Multinomial(total, logits=logits), obs=heads)

    def mixed(name, concentration, total, heads):
        numpyro.sample(name, dist.DirichletMultinomial(concentration, total), obs=heads)

    _parts(polls, counts, asked, multinomial, mixed)


def twin(polls, counts, asked):
    """The same with the densities written out, which NumPyro takes in a loop."""

    def multinomial(name, total, logits, heads):
        shares = jax.nn.log_softmax(logits)
        numpyro.factor(name, gammaln(total + 1.0) + jnp.sum(heads * shares - gammaln(heads + 1.0)))

    def mixed(name, concentration, total, heads):
        each = jnp.where(heads > 0, jnp.log(jnp.maximum(heads, 1)) + betaln(concentration, jnp.maximum(heads, 1)), 0.0)
        numpyro.factor(name, jnp.log(total) + betaln(jnp.sum(concentration), total) - jnp.sum(each))

    _parts(polls, counts, asked, multinomial, mixed)


_r = np.random.default_rng(32)
_index = pd.date_range("2024-03-01", periods=5, freq="5D")
_asked = np.array([6, 11, 8, 14, 9])
_counts = np.stack([_r.multinomial(n, [0.5, 0.3, 0.2]) for n in _asked])
_panel = np.stack([_r.multinomial(n + 2, [0.4, 0.4, 0.2]) for n in _asked])
_polls = pd.DataFrame(_panel, columns=list("abc"), index=_index).assign(asked=_panel.sum(1))
model_args = (_polls.assign(institute="x"), jnp.asarray(_counts), jnp.asarray(_asked))
model_kwargs = {}
OBS = ["polls", "panel"]
LATENT_IN_SCAN = ["support"]
