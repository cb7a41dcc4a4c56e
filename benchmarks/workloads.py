"""Workloads B to G, timed: what `run.py` runs in the interpreter of each library.

    python workloads.py LIBRARY WORKLOAD RUNS QUICK      prints one JSON line

    B  bootstrap filter, tracking in the plane (four states, two observations), T = 500, N = 10,000
    C  64 parameter vectors at once, stochastic volatility, T = 200, N = 1,000
    D  gradient of the log-likelihood, stochastic volatility, T = 200, N = 1,000
    E  100 smoothed paths by backward sampling, stochastic volatility, T = 500, N = 1,000
    F  PMMH, stochastic volatility, T = 200, N = 500, 1,000 iterations of one chain
    G  NUTS, stochastic volatility, T = 1,000, one chain of 200 steps after 200 of warm-up: the smallest effective
       sample size of a parameter, a second; NumPyro samples the model as it is written

Resampling is systematic, when ESS < N/2 (D: at every step).  The first call compiles and is timed apart; then RUNS
calls with other keys, each until the numbers are on the host.  QUICK 1 divides particles and iterations by ten.
A library is imported only by its own function, so that this file runs anywhere.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import numpy as np
from workload_a_runners import MU, PHI, SIGMA, smcx_volatility, volatility_model

Call = Callable[[int], np.ndarray]

# Constant velocity in the plane, unit steps: position and velocity of each coordinate.
MOVE = np.kron(np.eye(2), [[1.0, 1.0], [0.0, 1.0]])
PUSH = np.linalg.cholesky(np.kron(np.eye(2), 0.1 * np.array([[1 / 3, 1 / 2], [1 / 2, 1.0]])))
FIRST = np.array([1.0, 0.5, 1.0, 0.5])


def volatility(steps: int) -> np.ndarray:
    """Simulate returns."""
    rng = np.random.default_rng(20261121)
    x, y = MU, np.empty(steps)
    for t in range(steps):
        x = MU + PHI * (x - MU) + SIGMA * rng.standard_normal()
        y[t] = np.exp(x / 2) * rng.standard_normal()
    return y.astype(np.float32)


def tracks(steps: int = 500) -> np.ndarray:
    """Simulate observed positions."""
    rng = np.random.default_rng(7)
    x, y = FIRST * rng.standard_normal(4), np.empty((steps, 2))
    for t in range(steps):
        x = MOVE @ x + PUSH @ rng.standard_normal(4) if t else x
        y[t] = x[::2] + rng.standard_normal(2)
    return y.astype(np.float32)


def thetas(count: int = 64) -> np.ndarray:
    """Give parameter vectors around the truth, (count, 3)."""
    rng = np.random.default_rng(3)
    mu, phi = MU + 0.2 * rng.standard_normal(count), np.clip(PHI + 0.01 * rng.standard_normal(count), 0.9, 0.99)
    return np.stack([mu, phi, SIGMA * np.exp(0.15 * rng.standard_normal(count))], 1).astype(np.float32)


def exact_tracking() -> float:
    """Log-likelihood of workload B by a Kalman filter in float64."""
    mean, cov, total = np.zeros(4), np.diag(FIRST**2), 0.0
    for t, y in enumerate(tracks().astype(float)):
        if t:
            mean, cov = MOVE @ mean, MOVE @ cov @ MOVE.T + PUSH @ PUSH.T
        spread = cov[::2, ::2] + np.eye(2)
        residual = y - mean[::2]
        total -= 0.5 * (residual @ np.linalg.solve(spread, residual) + np.linalg.slogdet(2 * np.pi * spread)[1])
        gain = np.linalg.solve(spread, cov[::2]).T
        mean, cov = mean + gain @ residual, cov - gain @ cov[::2]
    return float(total)


def ssmscan_calls(workload: str, n: int, iterations: int) -> Call:
    """Default settings, through the public functions, on models written in NumPyro."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.contrib.control_flow import scan

    import ssmscan

    def tracking(y):
        start = numpyro.sample("x0", dist.Normal(0.0, FIRST).to_event(1))
        numpyro.sample("first", dist.Normal(start[::2], 1.0).to_event(1), obs=y[0])

        def transition(x, y):
            x = numpyro.sample("x", dist.MultivariateNormal(jnp.asarray(MOVE) @ x, scale_tril=jnp.asarray(PUSH)))
            numpyro.sample("y", dist.Normal(x[::2], 1.0).to_event(1), obs=y)
            return x, None

        scan(transition, start, y[1:])

    theta = {"mu": MU, "phi": PHI, "sigma": SIGMA}
    if workload == "B":
        particle_filter = ssmscan.ParticleFilter(n)
        ssm = ssmscan.trace(tracking, jnp.asarray(tracks()))
        return lambda seed: np.asarray(particle_filter.run(jax.random.key(seed), ssm, {}).log_likelihood)
    ssm = ssmscan.trace(volatility_model(), jnp.asarray(volatility(500 if workload == "E" else 200)))
    if workload == "C":
        vectors = dict(zip(("mu", "phi", "sigma"), jnp.asarray(thetas()).T))
        many = jax.jit(jax.vmap(lambda key, theta: ssmscan.log_likelihood(key, ssm, theta, num_particles=n)))
        return lambda seed: np.asarray(many(jax.random.split(jax.random.key(seed), 64), vectors))
    if workload == "D":
        every = lambda theta, key: ssmscan.log_likelihood(key, ssm, theta, num_particles=n, threshold=1)  # noqa: E731
        gradient = jax.jit(jax.grad(every))
        start = jax.tree.map(jnp.float32, theta)
        return lambda seed: np.array(jax.tree.leaves(gradient(start, jax.random.key(seed))))
    if workload == "E":
        stored = ssmscan.ParticleFilter(n, store=ssmscan.FullHistory(), summaries=())

        def paths(seed: int) -> np.ndarray:
            filter_key, path_key = jax.random.split(jax.random.key(seed))
            result = stored.run(filter_key, ssm, theta)
            return np.asarray(ssmscan.backward_sample(path_key, ssm, theta, result, num_paths=100)["x"])

        return paths
    if workload == "G":
        ssm = ssmscan.trace(volatility_model(), jnp.asarray(volatility(1000)))
        nuts = ssmscan.NUTS(num_warmup=iterations // 5, num_samples=iterations // 5, num_chains=1, progress=False)
        return lambda seed: smallest_size(nuts.run(jax.random.key(seed), ssm).draws)
    sampler = ssmscan.PMMH(
        num_samples=iterations, num_warmup=8, num_chains=1, num_particles=n, num_paths=0, progress=False
    )
    return lambda seed: sampler.run(jax.random.key(seed), ssm).draws["phi"]


def cuthbert_calls(workload: str, n: int, iterations: int) -> Call:
    """Bootstrap filters from cuthbert's own parts; they keep the whole history."""
    import jax
    import jax.numpy as jnp
    from cuthbert import filter as run_filter
    from cuthbert import smoother as run_smoother
    from cuthbert.smc import backward_sampler, particle_filter
    from cuthbertlib.resampling import systematic
    from cuthbertlib.resampling.adaptive import ess_decorator
    from cuthbertlib.resampling.autodiff import stop_gradient_decorator
    from cuthbertlib.smc.smoothing.exact_sampling import simulate

    def filtered(key, theta, y, scheme):
        mu, phi, sigma = theta

        def start(key):
            return mu + sigma / jnp.sqrt(1 - phi**2) * jax.random.normal(key)

        def move(key, x, y):
            return mu + phi * (x - mu) + sigma * jax.random.normal(key)

        def log_weight(before, x, y):
            return -0.5 * (jnp.log(2 * jnp.pi) + x + y**2 * jnp.exp(-x))

        start_key, run_key = jax.random.split(key)
        smc = particle_filter.build_filter(start, move, log_weight, n, scheme)
        return run_filter(smc, y, smc.init_prepare(key=start_key), key=run_key)

    def track(key, y):
        step, push = jnp.asarray(MOVE, jnp.float32), jnp.asarray(PUSH, jnp.float32)

        def start(key):
            return jnp.asarray(FIRST, jnp.float32) * jax.random.normal(key, (4,))

        def move(key, x, inputs):
            return jnp.where(inputs[1] == 0, x, step @ x + push @ jax.random.normal(key, (4,)))

        def log_weight(before, x, inputs):
            return -jnp.log(2 * jnp.pi) - 0.5 * jnp.sum((inputs[0] - x[::2]) ** 2)

        start_key, run_key = jax.random.split(key)
        smc = particle_filter.build_filter(start, move, log_weight, n, adaptive)
        states = run_filter(smc, (y, jnp.arange(len(y))), smc.init_prepare(key=start_key), key=run_key)
        return states.log_normalizing_constant[-1]

    adaptive = ess_decorator(systematic.resampling, 0.5)
    truth = tuple(jnp.float32(v) for v in (MU, PHI, SIGMA))
    if workload == "B":
        run, data = jax.jit(track), jnp.asarray(tracks())
        return lambda seed: np.asarray(run(jax.random.key(seed), data))
    y = jnp.asarray(volatility(500 if workload == "E" else 200))
    if workload == "C":
        one = lambda key, theta: filtered(key, theta, y, adaptive).log_normalizing_constant[-1]  # noqa: E731
        many, vectors = jax.jit(jax.vmap(one)), tuple(jnp.asarray(thetas()).T)
        return lambda seed: np.asarray(many(jax.random.split(jax.random.key(seed), 64), vectors))
    if workload == "D":
        every = stop_gradient_decorator(systematic.resampling)
        gradient = jax.jit(jax.grad(lambda theta, key: filtered(key, theta, y, every).log_normalizing_constant[-1]))
        return lambda seed: np.array(gradient(truth, jax.random.key(seed)))
    if workload == "E":
        mu, phi, sigma = truth

        def log_density(before, x, y):
            return -0.5 * ((x - mu - phi * (before - mu)) / sigma) ** 2

        smoother = backward_sampler.build_smoother(log_density, simulate, systematic.resampling, 100)

        @jax.jit
        def paths(key):
            filter_key, path_key = jax.random.split(key)
            return run_smoother(smoother, filtered(filter_key, truth, y, adaptive), key=path_key).particles

        return lambda seed: np.asarray(paths(jax.random.key(seed)))
    raise ValueError(f"cuthbert has no workload {workload}")


def smcx_calls(workload: str, n: int, iterations: int) -> Call:
    """The bootstrap filter of smcx; its gradient ignores resampling and it has no backward sampling."""
    import jax
    import jax.numpy as jnp
    import smcx

    if workload == "C":
        y, vectors = jnp.asarray(volatility(200)), tuple(jnp.asarray(thetas()).T)
        many = jax.jit(jax.vmap(lambda key, theta: smcx_volatility(smcx, key, theta, y, n, "ess").marginal_loglik))
        return lambda seed: np.asarray(many(jax.random.split(jax.random.key(seed), 64), vectors))
    step, push, first = (jnp.asarray(matrix, jnp.float32) for matrix in (MOVE, PUSH, FIRST))

    def move(key, x):
        return step @ x + push @ jax.random.normal(key, (4,))

    def log_density(y, x):
        return -jnp.log(2 * jnp.pi) - 0.5 * jnp.sum((y - x[::2]) ** 2)

    def filtered(key, y):
        start = lambda key, n, *_: first * jax.random.normal(key, (n, 4))  # noqa: E731
        return smcx.bootstrap_filter(
            key, start, move, log_density, y, n, resampling_threshold=0.5, store_history=False
        ).marginal_loglik

    run, data = jax.jit(filtered), jnp.asarray(tracks())
    return lambda seed: np.asarray(run(jax.random.key(seed), data))


def pypomp_calls(workload: str, n: int, iterations: int) -> Call:
    """Particle MCMC of pypomp, which resamples at every step; the step sizes of its random walk are given."""
    import jax
    import jax.numpy as jnp
    import jax.scipy.stats as stats
    import pandas as pd
    import pypomp

    def start(theta_, key, covars, t0):
        return {"x": theta_["mu"] + theta_["sigma"] / jnp.sqrt(1 - theta_["phi"] ** 2) * jax.random.normal(key)}

    def move(X_, theta_, key, covars, t, dt):
        return {"x": theta_["mu"] + theta_["phi"] * (X_["x"] - theta_["mu"]) + theta_["sigma"] * jax.random.normal(key)}

    def log_density(Y_, X_, theta_, covars, t):
        return -0.5 * (jnp.log(2 * jnp.pi) + X_["x"] + Y_["y"] ** 2 * jnp.exp(-X_["x"]))

    def log_prior(theta_):
        inside = jnp.where(jnp.abs(theta_["phi"]) < 1, 0.0, -jnp.inf) + jnp.where(theta_["sigma"] > 0, 0.0, -jnp.inf)
        return inside + stats.norm.logpdf(theta_["mu"], 0, 5) + stats.norm.logpdf(theta_["sigma"])

    y = volatility(200)
    series = pd.DataFrame({"y": y}, index=np.arange(1, len(y) + 1, dtype=float))

    def chain(seed: int) -> np.ndarray:
        model = pypomp.Pomp(
            ys=series,
            theta=pypomp.PompParameters({"mu": MU, "phi": PHI, "sigma": SIGMA}),
            statenames=["x"],
            t0=0.0,
            nstep=1,
            rinit=start,
            rproc=move,
            dmeas=log_density,
        )
        walk = pypomp.MVNDiagRW if hasattr(pypomp, "MVNDiagRW") else pypomp.proposals.MVNDiagRW
        model.pmcmc(
            J=n,
            M=iterations,
            proposal=walk({"mu": 0.2, "phi": 0.01, "sigma": 0.03}),
            dprior=log_prior,
            key=jax.random.key(seed),
        )
        result = model.results_history[-1]
        traces = result.traces_da if hasattr(result, "traces_da") else result.traces
        return np.asarray(traces.sel(variable="phi"))

    return chain


def numpyro_calls(workload: str, n: int, iterations: int) -> Call:
    """NUTS of NumPyro on the model as it is."""
    import jax
    import jax.numpy as jnp
    from numpyro.infer import MCMC, NUTS

    half, y = iterations // 5, jnp.asarray(volatility(1000))

    def chain(seed: int) -> np.ndarray:
        sampler = MCMC(NUTS(volatility_model()), num_warmup=half, num_samples=half, progress_bar=False)
        sampler.run(jax.random.key(seed), y)
        return smallest_size({name: x[None] for name, x in sampler.get_samples().items() if name in NAMES})

    return chain


def smallest_size(draws: dict[str, np.ndarray]) -> np.ndarray:
    """Smallest effective sample size of the parameters; draws are (chains, draws)."""
    from numpyro.diagnostics import effective_sample_size

    return np.array(min(float(effective_sample_size(np.asarray(draws[name]))) for name in NAMES))


NAMES = ("mu", "phi", "sigma")
CALLS = {
    "ssmscan": ssmscan_calls,
    "cuthbert": cuthbert_calls,
    "smcx": smcx_calls,
    "pypomp": pypomp_calls,
    "numpyro": numpyro_calls,
}
DOES = {"ssmscan": "BCDEFG", "cuthbert": "BCDE", "smcx": "BC", "pypomp": "F", "numpyro": "G"}
PARTICLES = {"B": 10_000, "C": 1000, "D": 1000, "E": 1000, "F": 500, "G": 0}


def main(library: str, workload: str, runs: str, quick: str) -> None:
    """Time one workload and print what it took."""
    scale = 10 if quick == "1" else 1
    call = CALLS[library](workload, PARTICLES[workload] // scale, 1000 // scale)
    begin = time.perf_counter()
    call(0)
    first, seconds, cpu, values = time.perf_counter() - begin, [], [], []
    for seed in range(1, int(runs) + 1):
        begin, ticks = time.perf_counter(), time.process_time()
        values.append(float(np.mean(call(seed))))
        seconds.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - ticks)
    print(json.dumps({"first": first, "seconds": seconds, "cpu_seconds": cpu, "values": values}))


if __name__ == "__main__":
    main(*sys.argv[1:])
