r"""How well each observation was predicted from those before it, at draws of the parameters.

These are the log densities :math:`\log p(y_t | y_{1:t-1}, \theta_j)` that filters find, and what the group
`log_likelihood` of ArviZ should hold of a time series: they add up to the log likelihood.  The densities p(y_t | x_t)
at draws of the states do not, and have seen y_t.

Leave-one-out cross-validation from either (`arviz.loo`) answers how well an observation is predicted from those before
*and after* it were the parameters known from all others; for forecasts use `ssmscan.leave_future_out`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

KIND = (
    "one-step-ahead log predictive densities log p(y_t | y_1:t-1, theta) of a filter at draws of theta, not "
    "log p(y_t | x_t)"
)
"""What the numbers are, an attribute of the group of ArviZ."""


@dataclass(frozen=True, eq=False)
class PredictiveDensities:
    """One-step-ahead predictive densities at draws from the posterior.

    Attributes:
        increments: (chains, draws, S) log p(y_t | y_1:t-1, theta); S is T, or T + 1 with the start first where that is
            observed; independent loops one after the other.
        ess: (chains, draws, S) effective particles, the least of the elements of a panel; inf where nothing is drawn.
        status: (chains, draws) how the filters ended, 0 if all is well, as in `FilterResult`.
        draws: (draws,) which draws of each chain: ``result.draws[name][:, draws]``.
        estimator: what filtered.
        notes: how it was chosen, and what went wrong at some draws, in sentences.
        parts: what the entries of S are of: names of the sites observed at once, joined by "+", and how many entries.
    """

    increments: np.ndarray
    ess: np.ndarray
    status: np.ndarray
    draws: np.ndarray
    estimator: Any
    notes: tuple[str, ...]
    parts: tuple[tuple[str, int], ...]

    @property
    def exact(self) -> bool:
        """Whether nothing was drawn."""
        return bool(np.isinf(self.ess).all())

    @property
    def by_site(self) -> dict[str, np.ndarray]:
        """The increments of each part, (chains, draws, steps)."""
        ends = np.cumsum([size for _, size in self.parts])[:-1]
        return dict(zip((name for name, _ in self.parts), np.split(self.increments, ends, axis=2)))
