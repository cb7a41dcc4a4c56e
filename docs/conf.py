"""How Sphinx builds the documentation: `python -m sphinx -W -n -q -b html docs docs/_build`.

Pages are Markdown.  The pages of the reference are written here, from the groups of `ssmscan.__all__`, into
`docs/reference/`, so that a name that is exported is documented.  Nothing is downloaded.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import ssmscan  # noqa: E402

project = "ssmscan"
author = "The ssmscan authors"
version = release = ssmscan.__version__
project_copyright = author

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "ssmscan"
html_static_path: list[str] = []
pygments_style = "friendly"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "name"
nitpick_ignore_regex = [
    ("py:class", r"(jax|numpy|np|collections|os|pathlib)\..*|Array|PyTree|Values"),  # of others, and aliases
    ("py:class", r".*ssmscan\.(model|particles|inference|results)\..*"),  # in signatures, and made by no user
]


def groups() -> dict[str, list[str]]:
    """Return the groups of `ssmscan.__all__`: the comment above each, and the names under it."""
    source = inspect.getsource(ssmscan)
    found: dict[str, list[str]] = {}
    for comment, name in re.findall(r'^    (?:# (.*)|"(\w+)",)$', source[source.index("__all__ = [") :], re.MULTILINE):
        if comment:
            found[comment] = names = []
        elif name != "__version__":
            names.append(name)
    return found


def slug(title: str) -> str:
    """Return the name of a page."""
    return re.sub("[^a-z0-9]+", "-", title.lower())


def entry(name: str) -> str:
    """Return the directive that documents one public name."""
    thing = getattr(ssmscan, name)
    if inspect.ismodule(thing):
        own = [n for n, f in inspect.getmembers(thing, inspect.isfunction) if f.__module__.startswith(thing.__name__)]
        members = "".join(f"   .. autofunction:: ssmscan.{name}.{n}\n" for n in own if not n.startswith("_"))
        return f".. py:module:: ssmscan.{name}\n\n{members}"
    if inspect.isclass(thing):
        return f".. autoclass:: ssmscan.{name}\n   :members:\n   :special-members: __call__\n"
    return f".. autofunction:: ssmscan.{name}\n"


def write_reference(app: object) -> None:
    """Write a page of the reference for each group, and the page that lists them."""
    folder = HERE / "reference"
    folder.mkdir(exist_ok=True)
    for page in folder.glob("*.rst"):
        page.unlink()
    for title, names in groups().items():
        title = title[0].upper() + title[1:]
        table = "".join(f"   ssmscan.{name}\n" for name in names)
        body = "\n".join(entry(name) for name in names)
        text = f"{title}\n{'=' * len(title)}\n\n.. autosummary::\n   :nosignatures:\n\n{table}\n{body}"
        (folder / f"{slug(title)}.rst").write_text(text)
    title = "Data sets"
    directive = ".. automodule:: ssmscan.datasets\n   :members:\n"
    (folder / "data-sets.rst").write_text(f"{title}\n{'=' * len(title)}\n\n{directive}")
    pages = "".join(f"   {slug(title)}\n" for title in [*groups(), title])
    title = "Public names"
    (folder / "index.rst").write_text(f"{title}\n{'=' * len(title)}\n\n.. toctree::\n   :maxdepth: 2\n\n{pages}")


def name_role(role, rawtext, text, lineno, inliner, options=None, content=None):
    """Return what a docstring has between single backticks: code, and a link where it is a public name."""
    names = text.removeprefix("ssmscan.").removesuffix("()").split(".")
    code = nodes.literal(rawtext, text)
    if not hasattr(ssmscan, names[0]) or names[0] not in ssmscan.__all__:
        return [code], []
    from sphinx.addnodes import pending_xref

    target = "ssmscan." + names[0]
    link = pending_xref(rawtext, refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=False)
    link += code
    link["refdoc"] = inliner.document.settings.env.docname
    return [link], []


def before_napoleon(app, what, name, thing, options, lines):
    """Escape `*shape` and `|z|`, hide colons that napoleon would take for those of a type, split "low, high:"."""
    lines[:] = [re.sub(r"(?<![\w*`])\*(?=\w+[,)])|\|(?=\w+\|)", r"\\\g<0>", line) for line in lines]
    for i in reversed(range(lines.index("Attributes:") if "Attributes:" in lines else len(lines), len(lines))):
        if several := re.match(r"( +)(\w+(?:, \w+)+): ", lines[i]):
            *others, last = several[2].split(", ")
            lines[i] = lines[i].replace(several[2], last, 1)
            lines[i:i] = [f"{several[1]}{name}: as the next." for name in others]
    starts = [i + 1 for i, line in enumerate(lines[:-1]) if line.strip() in ("Returns:", "Yields:")]
    starts += [0] if what in ("property", "attribute") and lines else []
    for i in starts:
        lines[i] = lines[i].replace(": ", "\0 ")


def after_napoleon(app, what, name, thing, options, lines):
    """Show the colon again."""
    lines[:] = [line.replace("\0", ":") for line in lines]


def inline_math(writer, node):
    """Write a formula as MathML, which browsers show without a script from elsewhere."""
    writer.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def display_math(writer, node):
    """Write a formula on a line of its own."""
    writer.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app):
    """Register what stands above."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("autodoc-process-docstring", before_napoleon, priority=100)
    app.connect("autodoc-process-docstring", after_napoleon, priority=900)
    app.add_role("name", name_role)
    app.connect("builder-inited", write_reference)
