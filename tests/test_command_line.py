"""The command line on small models and tables: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import re
import textwrap

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import ssmscan
from ssmscan.__main__ import main
from ssmscan.command_line import commands, prior_look, suitable
from ssmscan.command_line.columns import UsageError, read
from ssmscan.command_line.facts import facts

MODEL = """
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan


def model(y):
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))

    def transition(x, y):
        x = numpyro.sample("x", dist.Normal(x, sd))
        numpyro.sample("obs", dist.Normal(x, 1.0), obs=y)
        return x, None

    scan(transition, 0.0, y)
"""

BACKWARD = MODEL.replace("0.0, y)", "0.0, y, reverse=True)")


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text).lstrip("\n"))
        return path

    return write


def table(header, *rows):
    return "\n".join([header, *rows]) + "\n"


def columns(write, *lines):
    return read(write("data.csv", table(*lines)))


# ---- tables ------------------------------------------------------------------------------------------


def test_columns_are_numbers_when_asked_for_and_empty_cells_are_missing(write):
    found = columns(write, "date,y,n,place", "2024-01-01,1.5,3,Porto", "2024-01-02,,4,Porto", "2024-01-03,NA,5,Faro")
    np.testing.assert_array_equal(found.numbers("y"), [1.5, np.nan, np.nan])
    assert found.numbers("n").dtype == np.int64 and found.names == ["y", "n", "place"]
    np.testing.assert_array_equal(found.time, np.array(["2024-01-01", "2024-01-02", "2024-01-03"], "datetime64[D]"))
    with pytest.raises(UsageError, match=r"data.csv, line 2, column 'place': expected a number.*got 'Porto'"):
        found.numbers("place")


@pytest.mark.parametrize(
    ("header", "cells", "dates"),
    [
        ("quarter", ("2024Q1", "2024-Q2"), ("2024-01", "2024-04")),
        ("year", ("1871", "1872"), ("1871", "1872")),
        ("when", ("2024-05", "2024-06"), ("2024-05", "2024-06")),
        ("when", ("2024-05-01 06:30", "2024-05-01T07:30"), ("2024-05-01T06:30", "2024-05-01T07:30")),
    ],
)
def test_dates_are_read_as_they_are_written(write, header, cells, dates):
    found = columns(write, f"{header};y", *(f"{cell};1" for cell in cells))
    assert found.time_name == header
    np.testing.assert_array_equal(found.time, np.array(dates, "datetime64"))


def test_an_index_without_a_name_is_the_time_if_it_has_dates(write):
    dated = columns(write, ",y", "2024-01-01,1.5", "2024-01-08,2.5")
    np.testing.assert_array_equal(dated.time, np.array(["2024-01-01", "2024-01-08"], "datetime64[D]"))
    counted = columns(write, ",y", "0,1.5", "1,2.5")
    assert dated.names == counted.names == ["y"] and counted.time is None
    np.testing.assert_array_equal(counted.numbers("y"), [1.5, 2.5])


@pytest.mark.parametrize("cells", [("1871", "1872"), ("2024-13-01", "2024-01-01"), ("May", "June")])
def test_what_is_no_date_is_none(write, cells):
    assert columns(write, "count,y", *(f"{cell},1" for cell in cells)).time is None


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([""], "got an empty file"),
        (["y"], "expected rows of numbers below the names"),
        (["1,2", "3,4"], "line 1: expected the names of the columns, got numbers"),
        (["y,y", "1,2"], "line 1: expected a name for each column, got 'y' twice"),
        (["y,", "1,2"], "line 1: .* got none for column 2"),
        (["a,b", "1,2", "", "3"], "line 4: expected 2 cells, as many as names, got 1"),
    ],
)
def test_a_malformed_table_is_named_by_file_and_line(write, lines, message):
    with pytest.raises(UsageError, match=f"data.csv.*{message}"):
        columns(write, *lines)


def test_facts_tell_of_gaps_and_of_what_does_not_vary(write):
    days = ("2024-01-01", "2024-01-02", "2024-01-05", "2024-01-06")
    rows = [f"{day},{y},7,{1e9 + k}" for k, (day, y) in enumerate(zip(days, ("1", "", "", "2")))]
    said = " ".join(facts(columns(write, "date,y,same,large", *rows), ["y", "same", "large"]))
    for expected in (
        "4 rows, 2024-01-01 to 2024-01-06",
        "one day apart but at 1 of 3 steps, the longest 3 days after 2024-01-02",
        "y: 2 numbers from 1 to 2, 2 missing",
        "the longest gap is of 2 rows, from line 3",
        "same: is the same number throughout",
        "large: 32-bit numbers, which JAX uses by default, keep 1 of its 4 different values apart",
    ):
        assert expected in said
    monthly = facts(columns(write, "month,y", *(f"2024-{m:02d},{m}" for m in range(1, 13))), ["y"])
    assert monthly[1] == "The rows are one month apart throughout."
    assert "not in order, first in line 3" in facts(columns(write, "year,y", "1872,1", "1871,2"), ["y"])[1]


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_selftest_prints_the_table_and_its_status_is_that_of_the_oracles(monkeypatch, capsys, passed, status):
    seeds = []

    class Found:
        def __bool__(self):
            return passed

        def __str__(self):
            return "the table"

    monkeypatch.setattr(commands, "run_oracles", lambda *, seed: seeds.append(seed) or Found())
    assert main(["selftest", "--seed", "3"]) == status
    assert capsys.readouterr().out == "the table\n" and seeds == [3]


# ---- commands ----------------------------------------------------------------------------------------


def test_alone_it_prints_a_guide_and_help_says_what_a_command_prints(capsys):
    with pytest.raises(SystemExit, match="2"):
        main([])
    assert "ssmscan check model.py --data data.csv" in capsys.readouterr().err
    for command in ("demo", "selftest", "trace", "check"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        printed = capsys.readouterr().out
        assert f"Example: ssmscan {command}" in printed and "Exit status: 0 where" in printed
        assert max(map(len, printed.splitlines())) <= 80


def test_trace_prints_the_sites_and_where_the_data_went(write, capsys):
    model, data = write("m.py", MODEL), write("d.csv", table("year,flow", *(f"{1900 + t},{t}" for t in range(5))))
    assert main(["trace", str(model), "--data", str(data)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"y = column flow of {data}.")
    assert "State-space model of 5 steps" in printed and "observed at every step" in printed
    # by name, where there are several
    wider = write("w.csv", table("z,y", *(f"{t},{t}" for t in range(5))))
    assert main(["trace", str(model), "--data", str(wider)]) == 0
    assert f"y = column y of {wider}; not used: z." in capsys.readouterr().out


def test_trace_takes_arguments_of_the_file_and_several_columns(write, capsys):
    file = write("m.py", MODEL + "\n\nmodel_args = ([0.1, 0.2, 0.3],)\nfixed = model\ndel model\n")
    assert main(["trace", str(file), "--name", "fixed"]) == 1  # a list is no array
    with_array = MODEL + "\n\nimport numpy as np\nmodel_kwargs = {'y': np.arange(3.0)}\n"
    assert main(["trace", str(write("a.py", with_array))]) == 0
    assert "3 steps" in capsys.readouterr().out
    panel = MODEL.replace("dist.Normal(x, sd)", "dist.Normal(x, sd).to_event(1)").replace(
        "dist.Normal(x, 1.0)", "dist.Normal(x, 1.0).to_event(1)"
    )
    panel = write("p.py", panel.replace("0.0, y)", "jnp.zeros(2), y)") + "\n\nimport jax.numpy as jnp\n")
    data = write("d.csv", table("a,b,c", *(f"{t},{t},{t}" for t in range(4))))
    assert main(["trace", str(panel), "--data", str(data), "--columns", "a,c"]) == 0
    assert "y = columns a, c of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "arguments", "status", "message"),
    [
        (
            MODEL,
            [],
            2,
            "cannot be called with model_args and model_kwargs of the file, missing .*'y'",
        ),
        (MODEL, ["--name", "fit"], 2, "expected a function 'fit', the NumPyro model, and found none; it has model"),
        (MODEL, ["--data", "absent.csv"], 2, "absent.csv: cannot be read, No such file"),
        (MODEL, ["--data", "d.csv"], 2, "for the argument 'y' of model.y. .* no column of that name; .* columns a, b"),
        (MODEL, ["--data", "d.csv", "--columns", "q"], 2, "--columns: .* has no column 'q'; it has a, b"),
        (MODEL, ["--data", "d.csv", "--columns", "b"], 2, "d.csv, line 3, column 'b': expected a number.*got 'x'"),
        (MODEL.replace("def model(y", "def model(a, b, c"), ["--data", "d.csv"], 2, "for the argument 'c' of model"),
        (BACKWARD, ["--data", "d.csv", "--columns", "a"], 1, "The model is refused"),
        (
            MODEL.replace("HalfNormal(1.0)", "HalfNormal(one)"),
            ["--data", "d.csv", "--columns", "a"],
            1,
            "calling model to trace it raised an exception(.|\n)*line 7, in model(.|\n)*NameError: name 'one'",
        ),
        ("import nowhere\n", [], 1, "importing it raised an exception(.|\n)*line 1(.|\n)*No module named 'nowhere'"),
    ],
)
def test_what_is_amiss_is_said_with_what_to_do(write, tmp_path, capsys, monkeypatch, model, arguments, status, message):
    monkeypatch.chdir(tmp_path)
    write("d.csv", table("a,b", "1,2", "2,x", "3,4"))
    assert main(["trace", str(write("m.py", model)), *arguments]) == status
    captured = capsys.readouterr()
    assert not captured.out
    assert re.search(message, captured.err), captured.err


@pytest.mark.slow
def test_check_says_what_is_to_know_before_a_run(write, capsys):
    rows = [f"{1900 + t},{v}" for t, v in enumerate([0.3, "", 1.0, -0.5, 0.2, 0.9])]
    model, data = write("m.py", MODEL), write("d.csv", table("year,y", *rows))
    assert main(["check", str(model), "--data", str(data)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for expected in (
        "6 rows, 1900 to 1905. The rows are one year apart throughout. y: 5 numbers from -0.5 to 1, 1 missing.",
        "the parts that engines run give NumPyro's density",
        "obs: the data lie between -0.500 and 1.00",
        "at 20 draws of the prior: 20 without complaint",
        "Start with ssmscan.NUTS, then ssmscan.ImportanceSampler to confirm",
    ):
        assert expected in printed


@pytest.mark.slow
def test_check_says_where_the_data_are_impossible():
    def elsewhere(y):
        def transition(x, y):
            x = numpyro.sample("x", dist.Normal(x, 1.0))
            numpyro.sample("obs", dist.Uniform(x + 50.0, x + 51.0), obs=y)
            return x, None

        scan(transition, 0.0, y)

    ssm = ssmscan.trace(elsewhere, np.zeros(4))
    made = prior_look.simulated(jax.random.key(0), ssm)
    assert "obs: only 0% of the data lie within the central 90 %" in made.sentences[1]
    found = prior_look.filtered(jax.random.key(1), ssm)
    assert found.impossible
    assert (
        "finds no state that can have made the data. At the first: Every particle has weight zero" in found.sentences[0]
    )
    assert "Start with ssmscan.ParticleFilter: nothing but the states is unknown" in suitable.suitable(ssm).advice


def test_engines_that_do_not_run_a_model_say_why():
    def jumps(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))

        def transition(x, y):
            x = x + numpyro.sample("jump", dist.Poisson(rate))
            numpyro.sample("obs", dist.Normal(x, 1.0), obs=y)
            return x, None

        scan(transition, 0.0, y)

    found = suitable.suitable(ssmscan.trace(jumps, np.arange(4.0)))
    assert {name for name, why in found.refused.items() if why} == {"NUTS", "TemperedSMC", "ParticleGibbs"}
    assert "'jump'" in found.refused["NUTS"]
    assert found.advice.startswith("Start with ssmscan.ImportanceSampler: the model has no gradient")
    assert "no" in [row[1] for row in found.table.rows]
