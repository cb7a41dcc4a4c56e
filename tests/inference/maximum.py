"""Maximum likelihood of real series against other people's estimates.

    python -m tests.inference.maximum [nile] [gbpusd]

`nile`: the local level model of the Nile against statsmodels' `UnobservedComponents`, whose initial level is
diffuse: given the first observation it is normal around it, which is how the model here starts.
`gbpusd`: stochastic volatility against the maximum of a likelihood by quadrature (a point-mass filter).
Passes if every estimate is within a quarter of a standard error and every standard error within a tenth.
"""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan
from scipy import optimize

import ssmscan
from ssmscan import MaximumLikelihood, ParticleFilter, datasets
from tests.inference.sv_quadrature import log_likelihood
from tests.particles.models import stochastic_volatility

NEAR, WITHIN = 0.25, 0.1


class Reference(NamedTuple):
    """Estimates and standard errors by name, and the largest log-likelihood."""

    theta: dict[str, float]
    standard_errors: dict[str, float]
    log_likelihood: float


def diffuse_local_level(y):
    var_y = numpyro.sample("var_y", dist.LogNormal(9.0, 1.0))
    var_level = numpyro.sample("var_level", dist.LogNormal(7.0, 1.0))
    start = numpyro.sample("start", dist.Normal(y[0], jnp.sqrt(var_y)))

    def transition(level, y):
        level = numpyro.sample("level", dist.Normal(level, jnp.sqrt(var_level)))
        numpyro.sample("y", dist.Normal(level, jnp.sqrt(var_y)), obs=y)
        return level, level

    scan(transition, start, y[1:])


def statsmodels_nile() -> Reference:
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    model = UnobservedComponents(datasets.nile().values, "local level", use_exact_diffuse=True)
    found = model.fit(disp=False, method="nm", maxiter=1000, xtol=1e-8, ftol=1e-10, cov_type="approx")
    names = dict(zip(model.param_names, ("var_y", "var_level")))
    theta = {names[n]: float(v) for n, v in zip(model.param_names, found.params)}
    errors = {names[n]: float(v) for n, v in zip(model.param_names, found.bse)}
    # statsmodels gives the diffuse first observation the density 1/sqrt(2 pi), the model here none.
    return Reference(theta, errors, float(found.llf) + 0.5 * np.log(2 * np.pi))


def hessian(function, point: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Second differences of a function of a vector."""
    unit = step * np.eye(len(point))

    def corner(i, j):
        signs = ((1, 1), (1, -1), (-1, 1), (-1, -1))
        return sum(a * b * function(point + a * unit[i] + b * unit[j]) for a, b in signs) / (4 * step**2)

    return np.array([[corner(i, j) for j in range(len(point))] for i in range(len(point))])


def quadrature_gbpusd() -> Reference:
    y = datasets.gbpusd().values

    def theta_of(z):
        return {"mu": z[0], "rho": np.tanh(z[1]), "sigma": np.exp(z[2])}

    def loss(z):
        theta = theta_of(z)
        return -float(log_likelihood(y, np.array([theta["mu"]]), theta["rho"], theta["sigma"])[0])

    assert abs(loss(np.array([-1.02, np.arctanh(0.9702), np.log(0.178)])) - 492.45424262228) < 1e-3
    found = optimize.minimize(loss, [-1.0, 2.0, -1.7], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-7})
    theta = theta_of(found.x)
    spread = np.sqrt(np.diag(np.linalg.inv(hessian(loss, found.x))))
    scale = {"mu": 1.0, "rho": 1 - theta["rho"] ** 2, "sigma": theta["sigma"]}
    errors = {name: float(s * spread[i]) for i, (name, s) in enumerate(scale.items())}
    return Reference({name: float(v) for name, v in theta.items()}, errors, -float(found.fun))


def compare(title: str, found: ssmscan.Maximum, truth: Reference) -> bool:
    """Print estimates side by side; whether they agree."""
    print(f"{title}: {found.message()}")
    print(f"log-likelihood {found.log_likelihood:.3f} +/- {found.log_likelihood_error:.3f}, ", end="")
    print(f"reference {truth.log_likelihood:.3f}; sd(log Z) of one filter {found.log_likelihood_sd:.2f}")
    print(f"relative Monte Carlo error of the standard errors {found.standard_error_noise:.3f}")
    fine = found.converged
    for name, value in truth.theta.items():
        estimate, error = float(found.theta[name]), float(found.standard_errors[name])
        apart, ratio = (estimate - value) / truth.standard_errors[name], error / truth.standard_errors[name]
        fine &= abs(apart) < NEAR and abs(ratio - 1) < WITHIN
        print(
            f"  {name:10s} {estimate:12.5g} reference {value:12.5g} ({apart:+.3f} se)   "
            f"se {error:10.4g} reference {truth.standard_errors[name]:10.4g} (ratio {ratio:.3f})"
        )
    print("PASS\n" if fine else "FAIL\n", flush=True)
    return fine


def nile() -> bool:
    ssm = ssmscan.trace(diffuse_local_level, jnp.asarray(datasets.nile().values, float))
    engine = MaximumLikelihood(num_steps=800, num_replicates=256, estimator=ParticleFilter(1000))
    return compare("Nile, local level", engine.run(jax.random.key(0), ssm), statsmodels_nile())


def gbpusd() -> bool:
    ssm = ssmscan.trace(stochastic_volatility, jnp.asarray(datasets.gbpusd().values, float))
    engine = MaximumLikelihood(num_steps=800, num_starts=2, estimator=ParticleFilter(1000))
    return compare("GBP/USD, stochastic volatility", engine.run(jax.random.key(0), ssm), quadrature_gbpusd())


def main(parts: list[str]) -> int:
    """Run the parts asked for, all without arguments; nonzero if one fails."""
    runs = {"nile": nile, "gbpusd": gbpusd}
    passed = []
    for part in parts or list(runs):
        begin = time.perf_counter()
        passed.append(runs[part]())
        print(f"{part}: {time.perf_counter() - begin:.0f} s", flush=True)
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
