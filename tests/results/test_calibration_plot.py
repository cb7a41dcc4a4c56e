"""The figure of PIT values shows their distribution function less the uniform one, and where it leaves the band."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ssmscan.results import plots
from ssmscan.results.uniformity import simultaneous_band


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_uniform_values_stay_inside_and_others_are_marked_where_they_do_not():
    middle = (np.arange(200) + 0.5) / 200
    ax = plots.pit(np.append(middle, np.nan))
    (_, line, marks) = ax.lines
    np.testing.assert_allclose(line.get_ydata(), 0.0, atol=0.5 / 200 + 1e-12)
    assert texts(ax) == ["95 % band of 200 uniform values", "inside everywhere"] and not len(marks.get_xdata())
    ax = plots.pit({"narrow": 0.25 + middle / 2, "right": middle})
    band = simultaneous_band(200)
    exact = np.clip(2 * (band.points - 0.25), 0, 1) - band.points
    outside = (exact < band.lower - 1e-9) | (exact > band.upper + 1e-9)
    marks = ax.lines[2]
    assert marks.get_gid() == "outside"
    np.testing.assert_allclose(marks.get_xdata(), band.points[outside])
    assert texts(ax)[1:] == [f"narrow: outside at {outside.sum()} of 99 points", "right: inside everywhere"]


def test_ranks_of_calibration_are_looked_at_where_they_can_be():
    ax = plots.pit((np.tile(np.arange(20), 10) + 1) / 20, cells=20)
    np.testing.assert_allclose(ax.lines[1].get_ydata(), 0.0, atol=1e-12)


def test_malformed_calls_are_sentences():
    for call, error, message in [
        (lambda: plots.pit({}), ValueError, "pit needs values, got none"),
        (lambda: plots.pit({"a": [2.0]}), ValueError, r"values\['a'\]: expected a row of numbers"),
        (lambda: plots.pit(np.ones((3, 2))), ValueError, "choose an element"),
        (lambda: plots.pit([0.1], cells=1.5), TypeError, "cells: expected an integer"),
        (lambda: plots.pit([0.1], level=2), ValueError, "level: expected a number"),
        (lambda: plots.pit([0.1], ax=3), TypeError, "one Axes"),
    ]:
        with pytest.raises(error, match=message):
            call()
