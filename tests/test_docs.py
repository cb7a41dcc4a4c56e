"""Every block of Python in the README and on every page of `docs/` runs, in order, as a reader would run it.

A page is one program.  What a page leaves out for its readers stands in comments that browsers do not show:

    <!-- setup
    code that runs here, as if it stood in a block
    -->
    <!-- quick: seconds=120 => seconds=5 -->     replaced in the next block, so that it ends soon
    <!-- output -->                              the next block of text is what was printed since the last such block,
                                                 word by word, and number by number only where `exact` is said

Engines run with the short defaults of `QUICK`; what a block says itself it gets.  `docs/refusals.md` has a test of its
own, `tests/model/test_refusals.py`, which also compares the messages.
"""

from __future__ import annotations

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
            printed = io.StringIO()
        else:
            code = textwrap.dedent(part["setup"] or part["code"])
            if part["code"]:
                blocks += 1
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
    for engine, settings in QUICK.items():
        for name, value in {**settings, "progress": False}.items():
            assert name in engine.__init__.__kwdefaults__
            monkeypatch.setitem(engine.__init__.__kwdefaults__, name, value)
    yield
    plt.close("all")


def seen(page: Path) -> int:
    """How many blocks of Python a page has, however they are marked."""
    return len(re.findall(r"^ *(?:```|~~~)\s*(?:python|py|pycon|ipython)\w*", page.read_text(), re.MULTILINE))


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if seen(page)], ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page, quick):
    if page.name in ELSEWHERE:
        pytest.skip("its examples are run by tests/model/test_refusals.py")
    assert run(page) == seen(page)
