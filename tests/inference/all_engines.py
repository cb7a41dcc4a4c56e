"""Every engine on three models, held against each other and against deterministic integrals.

    python -m tests.inference.all_engines [case ...]

NUTS, importance sampling, PMMH, particle Gibbs and SMC2 on the Nile, `log_sp500_small` and three regimes: one table of
`compare`, the largest z of each engine's statistics against integration over a grid, and the evidence of every engine
that has one, of the others by importance sampling on their draws.
"""

import sys
import time
import warnings

import jax
import numpy as np

import ssmscan
from tests.inference.gibbs_truth import CASES, checks


def engines(name):
    """The engines of one model."""
    long = name == "log_sp500_small"
    return {
        "nuts": ssmscan.NUTS(num_samples=5000 if long else 2000, num_paths=100, progress=False),
        "importance": ssmscan.ImportanceSampler(target_ess=4000, num_paths=100, progress=False),
        "pmmh": ssmscan.PMMH(num_samples=20_000 if long else 10_000, num_paths=100, progress=False),
        "gibbs": CASES[name].engine,
        "smc2": ssmscan.SMC2(num_points=1024, num_runs=8, num_paths=100, progress=False),
    }


def main(names):
    """Print what was found."""
    warnings.simplefilter("ignore", ssmscan.ResultWarning)
    for name in names or CASES:
        ssm, truth = CASES[name].traced(), CASES[name].truth()
        results = {}
        print(f"=== {name}: exact log evidence {truth.log_evidence:.4f}")
        for number, (label, engine) in enumerate(engines(name).items()):
            began = time.perf_counter()
            result = results[label] = engine.run(jax.random.key(number), ssm)
            found = checks(result, truth)
            worst = max(found, key=lambda one: abs(one.z))
            if result.log_evidence is None:
                estimate = ssmscan.evidence(jax.random.key(9), ssm, result, progress=False)
                value, error, how = estimate.log_evidence, estimate.error, "by importance sampling on its draws"
            else:
                value, error, how = result.log_evidence, result.log_evidence_error, "its own"
            print(
                f"{label:11s} worst |z| {abs(worst.z):.2f} of {len(found)} ({worst.quantity}); log evidence "
                f"{value:.4f} +- {error:.4f} {how}; {time.perf_counter() - began:.0f} s",
                flush=True,
            )
        print(ssmscan.compare(**results), flush=True)
        assert np.isfinite(truth.log_evidence)


if __name__ == "__main__":
    main(sys.argv[1:])
