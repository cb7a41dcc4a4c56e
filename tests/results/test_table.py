"""Numbers show the digits their errors allow, and tables survive the trip into a document."""

import pytest

from ssmscan.results.table import Table, count, rounded, significant


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.93163, 0.0012, "0.9316"),
        (-1234.56, 3.0, "-1234.6"),
        (1234.56, 250.0, "1235"),
        (2.0e-7, 1.0e-9, "2.000e-07"),
        (0.5, 0.0, "0.5"),
        (0.123456, float("nan"), "0.1235"),
        (float("nan"), 0.1, "-"),
        (float("-inf"), 0.1, "-inf"),
    ],
)
def test_a_number_is_printed_to_the_second_digit_of_its_error(value, error, text):
    assert rounded(value, error) == text


def test_short_forms():
    assert significant(0.000123) == "0.00012"
    assert significant(1.23456e-9) == "1.2e-09"
    assert significant(0.0) == "0"
    assert significant(1234.5) == "1234"
    assert count(12_345.6) == "12346"
    assert count(2.5e9) == "2.50e+09"
    assert count(float("nan")) == "-"


def test_columns_line_up_and_markdown_has_one_cell_per_column():
    table = Table("t", ("name", "x"), (("a|b", "1.0"), ("long name", "-10.0")))
    lines = str(table).splitlines()
    assert {len(line) for line in lines[2:]} == {len("long name") + 2 + len("-10.0")}
    assert table.to_markdown().splitlines()[2:] == [
        "| name | x |",
        "|---|---:|",
        "| a\\|b | 1.0 |",
        "| long name | -10.0 |",
    ]


def test_sentences_below_a_table_and_html():
    table = Table("a < b", ("name", "x"), (("c & d", "1.0"),), notes=("word " * 40 + "<end>",))
    lines = str(table).splitlines()
    assert lines[5] == "" and max(map(len, lines)) <= 110
    assert " ".join(" ".join(lines[6:]).split()) == table.notes[0]
    assert table.to_markdown().endswith(f"\n\n- {table.notes[0]}")
    html = table._repr_html_()
    for part in (
        "<b>a &lt; b</b>",
        '<td style="text-align: left">c &amp; d</td>',
        '"text-align: right">1.0<',
        "&lt;end",
    ):
        assert part in html


def test_pandas_gets_numbers_and_labels():
    pandas = pytest.importorskip("pandas")
    made = Table(
        "t", ("name", "n", "mean", "text"), (("a", "1,200", "0.50", "x"), ("b", "3", "-", "1.5")), notes=("why",)
    )
    frame = made.to_pandas()
    assert list(frame.index) == ["a", "b"] and frame.index.name == "name"
    assert frame["n"].tolist() == [1200, 3] and frame["n"].dtype == int
    assert frame["mean"].iloc[0] == 0.5 and frame["mean"].isna().tolist() == [False, True]
    assert frame["text"].tolist() == ["x", "1.5"] and frame.attrs == {"title": "t", "notes": ["why"]}
    two = made._replace(labels=2).to_pandas()
    assert isinstance(two.index, pandas.MultiIndex) and list(two.columns) == ["mean", "text"]
    assert made._replace(labels=0).to_pandas().shape == (2, 4)
    assert made._replace(rows=()).to_pandas().empty
