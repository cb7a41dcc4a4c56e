"""Tracking: a northern fur seal that leaves the Pribilof Islands, seen by the Argos satellites in November 2005.

    velocity_t ~ Normal(a velocity_{t-1}, speed sqrt(1 - a^2)),  position_t = position_{t-1} + 4 h velocity_t
    fix_t ~ Normal(position_t, error[class_t]), in km east and north of the first; a is the persistence

A step is four hours; where no satellite passed, both numbers are NaN.  The model is linear and Gaussian, which ssmscan
proves from the trace: NUTS moves the parameters alone, on the exact likelihood.  A fix stands for four hours, so that
an error holds what the seal swims in them as well.
"""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan import datasets

HOURS, STEPS = 4, 240
NEAR = {"persistence": 0.93, "speed": 1.5, "error": np.array([3.6, 4.1, 3.5, 1.0, 0.8])}


def fixes():
    """Return positions (STEPS, 2) in km, NaN where there is none, and quality classes (STEPS,), 0 the best."""
    data = datasets.fur_seal()
    quality = np.array(["3210A".index(name) for name in data.covariates["class"]])
    step = ((data.time - data.time[0]) // np.timedelta64(HOURS, "h")).astype(int)
    order = np.lexsort((-quality, step))  # of several fixes in a step the best comes last, and stays
    order = order[step[order] < STEPS]
    km = 111.2 * (data.values - data.values[0]) * [np.cos(np.radians(data.values[0, 1])), 1.0]
    seen, classes = np.full((STEPS, 2), np.nan), np.zeros(STEPS, int)
    seen[step[order]], classes[step[order]] = km[order], quality[order]
    return seen, classes


def tracking(seen, classes):
    """Follow a velocity that persists, observe (T, 2) positions by the quality of the fix."""
    persistence = numpyro.sample("persistence", dist.Beta(5.0, 1.0))
    speed = numpyro.sample("speed", dist.HalfNormal(5.0))
    error = numpyro.sample("error", dist.LogNormal(0.0, 1.0).expand([5]).to_event(1))

    def transition(carry, inputs):
        position, velocity = carry
        y, quality = inputs
        kick = speed * jnp.sqrt(1 - persistence**2)
        velocity = numpyro.sample("velocity", dist.Normal(persistence * velocity, kick).to_event(1))
        position = numpyro.deterministic("position", position + HOURS * velocity)
        numpyro.sample("fix", dist.Normal(position, error[quality]).to_event(1), obs=y)
        return (position, velocity), None

    scan(transition, (jnp.zeros(2), jnp.zeros(2)), (seen, classes))


def main(key, quick=False):
    """Integrate the track out near the maximum, sample, and draw it."""
    seen, classes = (part[: 60 if quick else STEPS] for part in fixes())
    ssm = ssmscan.trace(tracking, seen, classes)
    print(ssm)
    exact = ssmscan.gaussian_approximation(ssm, NEAR)
    print(f"log likelihood near its maximum: {exact.log_likelihood:.2f}, {exact.word}")
    found, centre = {"log_likelihood": exact.log_likelihood}, exact.mean["position"]
    if not quick:
        found["result"] = result = ssmscan.NUTS().run(key, ssmscan.integrate_states(ssm))
        print(result.summary())
        centre = result.states["position"].mean((0, 1))

    ax = plt.figure(figsize=(5.0, 4.5), layout="constrained").subplots()
    ax.scatter(*seen.T, c=classes, cmap="cividis", s=14, label="fixes, the paler the worse")
    ax.plot(*centre.T, color="#D55E00", linewidth=1.0, label="track")
    ax.set(xlabel="km east", ylabel="km north")
    ax.legend(frameon=False)
    return found | {"seen": seen, "classes": classes, "figure": ax.figure}


if __name__ == "__main__":
    main(jax.random.key(0))["figure"].savefig("tracking.png", dpi=110, bbox_inches="tight")
