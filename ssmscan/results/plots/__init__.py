"""Figures for a paper: every function draws into one Axes, makes it if none is given, and returns it.

Nothing is shown or saved, and matplotlib is imported when a figure is drawn.  Figures are readable in grey and at the
width of a column (`drawing` says how).

| file | what it draws |
|---|---|
| `drawing` | nothing by itself: colours, marks, Axes, times and legends that figures share |
| `sources`, `curves` | nothing by themselves: what is drawn, and as which numbers |
| `paths` | `states`: a state with ribbons, over the data |
| `effective_size` | `ess`: effective particles at each step of a filter |
| `differences` | `agreement`: differences of engines, with a verdict on each |
| `densities` | `posterior`: densities of a parameter by several engines |
| `fan` | `forecast`: a site before the origin of a forecast, and its quantiles from there on |
| `running_evidence` | `evidence`: log evidence after every observation, or Bayes factors, with a band |
| `ancestry` | `genealogy`: ancestral lines of a filter's particles |
| `calibration` | `pit`: whether PIT values, or ranks, are uniform |

A new figure is a file with one function, which returns its Axes; `tests/results/figures.py` draws it at two sizes.
"""

from ssmscan.results.plots.ancestry import genealogy
from ssmscan.results.plots.calibration import pit
from ssmscan.results.plots.densities import posterior
from ssmscan.results.plots.differences import agreement
from ssmscan.results.plots.effective_size import ess
from ssmscan.results.plots.fan import forecast
from ssmscan.results.plots.paths import states
from ssmscan.results.plots.running_evidence import evidence

__all__ = ["states", "ess", "agreement", "posterior", "forecast", "evidence", "genealogy", "pit"]
