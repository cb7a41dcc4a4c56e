"""Every block of Python in the README and on every page of `docs/` runs, in order, as a reader would run it.

A page is one program.  What a page leaves out for its readers stands in comments that browsers do not show:

    <!-- setup
    code that runs here, as if it stood in a block
    -->
    <!-- quick: seconds=120 => seconds=5 -->     replaced in the next block, so that it ends soon
    <!-- output -->                              the next block of text is what the block before it printed, word by
                                                 word, and number by number only where `exact` is said

Engines run with the short defaults of `QUICK`; what a block says itself it gets.  `docs/refusals.md` has a test of its
own, `tests/model/test_refusals.py`, which also compares the messages.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import textwrap
from contextlib import redirect_stdout
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import ssmscan

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "benchmarks/README.md", "ssmscan/datasets/README.md"))]
ELSEWHERE = {"refusals.md"}

FILTER = ssmscan.ParticleFilter(32, threshold=1, summaries=())
QUICK: dict[type, dict[str, object]] = {
    ssmscan.NUTS: {"num_warmup": 100, "num_samples": 50, "num_chains": 2, "whiten": False},
    ssmscan.PMMH: {"num_warmup": 80, "num_samples": 100, "num_chains": 2, "num_particles": 32, "estimator": FILTER},
    ssmscan.ParticleGibbs: {"num_warmup": 20, "num_samples": 20, "num_chains": 2, "num_particles": 8},
    ssmscan.ImportanceSampler: {"num_points": 253, "num_particles": 32, "estimator": FILTER},
    ssmscan.TemperedSMC: {"num_particles": 40, "num_runs": 2, "chain_length": 4, "num_leapfrog": 5},
    ssmscan.SMC2: {"num_points": 64, "num_runs": 2, "num_particles": 8},
    ssmscan.MaximumLikelihood: {"num_steps": 20, "num_starts": 1, "num_replicates": 8},
}

PARTS = re.compile(
    r"^<!-- setup\n(?P<setup>.*?)^-->"
    r"|^<!-- quick: (?P<quick>.*?) -->"
    r"|^<!-- output(?P<exact> exact)? -->\n```text\n(?P<output>.*?)^```"
    r"|^(?P<indent> *)```python\n(?P<code>.*?)^ *```",
    re.MULTILINE | re.DOTALL,
)


def plain(text: str, exact: bool) -> str:
    """The words of what was printed; numbers, which the short run has not, as one sign."""
    text = text if exact else re.sub(r"[-+]?\d+([.,:]\d+)*(e[-+]?\d+)?", "#", text)
    return " ".join(re.sub(r"-{3,}|─+", "---", text).split())


def run(page: Path) -> int:
    """Run a page, and return how many of its blocks a reader sees."""
    text, printed, blocks = page.read_text(), io.StringIO(), 0
    names: dict[str, object] = {"__name__": "__main__"}
    replaced: list[tuple[str, str]] = []
    for part in PARTS.finditer(text):
        if part["quick"]:
            shown, short = re.split(r" =>(?: |$)", part["quick"])
            replaced.append((shown, short))
        elif part["output"] is not None:
            exact = bool(part["exact"])
            assert plain(printed.getvalue(), exact) == plain(part["output"], exact), f"{page.name}: what is printed"
        else:
            code = textwrap.dedent(part["setup"] or part["code"])
            if part["code"]:
                blocks, printed = blocks + 1, io.StringIO()
                for shown, short in replaced:
                    assert shown in code, f"{page.name}: no '{shown}' in the block after it"
                    code = code.replace(shown, short)
                replaced.clear()
            line = text.count("\n", 0, part.start("code" if part["code"] else "setup"))
            with redirect_stdout(printed):
                exec(compile("\n" * line + code, str(page), "exec"), names)
    assert not replaced
    return blocks


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """Short defaults, and an empty folder to write to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ssmscan.inference.cross_check.MOST_LOOKS", 2)
    for engine, settings in QUICK.items():
        for name, value in {**settings, "progress": False}.items():
            assert name in engine.__init__.__kwdefaults__
            monkeypatch.setitem(engine.__init__.__kwdefaults__, name, value)
    yield
    plt.close("all")


def seen(page: Path) -> int:
    """How many blocks of Python a page has, however they are marked."""
    return len(re.findall(r"^ *(?:```|~~~)[ \t]*(?:python|py|pycon|ipython)\w*", page.read_text(), re.MULTILINE))


HEAVY = {"certify.md"}


def marked(page: Path) -> object:
    return pytest.param(page, marks=pytest.mark.heavy if page.name in HEAVY else pytest.mark.slow, id=page.name)


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if seen(page)])
def test_every_block_of_a_page_runs(page, quick):
    if page.name in ELSEWHERE:
        pytest.skip("its examples are run by tests/model/test_refusals.py")
    assert run(page) == seen(page)


def test_a_page_that_is_wrong_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\nprint(x)\n```\n<!-- output -->\n```text\n2\n```\n")
    assert run(page) == seen(page) == 1  # a number of a short run may be another
    page.write_text(page.read_text().replace("<!-- output -->", "<!-- output exact -->"))
    with pytest.raises(AssertionError, match="what is printed"):
        run(page)
    page.write_text("```python\nx = 1\n```\n\n```python\nprint(y)\n```\n")
    with pytest.raises(NameError, match="'y'"):
        run(page)
    page.write_text("<!-- quick: x = 2 => x = 3 -->\n```python\nx = 1\n```\n")
    with pytest.raises(AssertionError, match="no 'x = 2' in the block after it"):
        run(page)
    page.write_text("~~~python\nnever run\n~~~\n")
    assert run(page) == 0 and seen(page) == 1


# ---- links --------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and MyST make it."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere, those into the web left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target or (page.parent == ROOT / "docs" and path.startswith("reference/")):
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            found.append(target)
    return found


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_a_broken_link_is_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One *heading*\n[a](#one-heading) [b](#other) [c](absent.md) [d](page.md#one-heading)\n")
    assert broken(page) == ["#other", "absent.md"]


def test_pages_that_the_package_names_exist():
    named = {
        name for path in (ROOT / "ssmscan").rglob("*.py") for name in re.findall(r"docs/[\w/]+\.md", path.read_text())
    }
    assert named and all((ROOT / name).exists() for name in named)


# ---- the reference ------------------------------------------------------------------------------


def test_the_reference_has_every_public_name_once():
    source = (ROOT / "docs" / "conf.py").read_text()
    names: dict[str, object] = {"ssmscan": ssmscan, "re": re, "inspect": inspect}
    wanted = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "groups"]
    exec(compile(ast.Module(wanted, []), "conf.py", "exec"), names)
    documented = [name for group in names["groups"]().values() for name in group]
    assert documented == [name for name in ssmscan.__all__ if name != "__version__"]
