"""SiteNames of sites: what `scope` makes of them, and what is left of an f-string over a traced index.

In NumPyro a `scope` around a scan renames the sites of the loop after it has run.  In the loop, and to `condition` and
`substitute` around it, they have the names that they were written with, so that NumPyro ignores a value for "a/y" and
takes one for "y".  Here a value may be given by either name, and sites have the name of NumPyro's trace.

An f-string over a traced index holds the printed tracer, which is dropped.  Where a site of the model has what is left
as its plain name, the other is numbered, `x__2`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.primitives import Messenger

from ssmscan.model.handlers.messages import clean_name
from ssmscan.model.handlers.tables import as_arrays


class SiteNames:
    """The names of the sites of one run of a model.

    Attributes:
        taken: plain names that are known before the run.
        plain: plain names that were met.
        left: what was left of names with a traced index.
    """

    def __init__(self, taken: frozenset[str] = frozenset()):
        self.taken = taken
        self.plain: set[str] = set()
        self.left: set[str] = set()

    @property
    def collide(self) -> bool:
        """Whether a name with a traced index was given a plain name that is not its own."""
        return not self.left.isdisjoint(self.plain)

    def numbering(self) -> Callable[[str], str]:
        """Return the map from names as they were written to names, for the sites of one loop, or of none, in order."""
        count: Counter[str] = Counter()

        def name_of(written: str) -> str:
            name = clean_name(written)
            if name == written:
                self.plain.add(name)
                return name
            while True:
                count[name] += 1
                numbered = name if count[name] == 1 else f"{name}__{count[name]}"
                if numbered not in self.taken:
                    self.left.add(numbered)
                    return numbered

        return name_of


def prefix_of(kind: str, between: Sequence[Messenger]) -> str:
    """Return what scopes put before the name of a site.

    Args:
        kind: type of its message.
        between: handlers around the site, the outermost first.
    """
    scopes = [h for h in between if isinstance(h, handlers.scope) and kind not in h.hide_types]
    return "".join(f"{scope.prefix}{scope.divider}" for scope in scopes)


def seen_by(kind: str, name: str, stack: Sequence[Messenger]) -> Iterator[tuple[Messenger, str]]:
    """Return each handler around a site with the name that the site has there.

    Args:
        kind: type of its message.
        name: its name outside of all handlers.
        stack: handlers around it, the outermost first.
    """
    for handler in stack:
        name = name.removeprefix(prefix_of(kind, [handler]))
        yield handler, name


def given_in_loop(stack: Sequence[Messenger], given: Sequence[tuple[str, Any]]) -> list[tuple[str, Any, Any, str]]:
    """Return what handlers around a scan give to its sites, by the names that these have in the loop.

    Args:
        stack: handlers around the scan, the outermost first.
        given: pairs (kind, mapping or function) that `condition` and `substitute` among them have handed to the scan,
            the innermost first.

    Returns:
        For each: kind, mapping or function by names in the loop, what was given, and the prefix of scopes between.
    """
    giving = [k for k, h in enumerate(stack) if isinstance(h, handlers.condition | handlers.substitute)][::-1]
    prefixes = [prefix_of("sample", stack[k + 1 :]) for k in giving]
    return [(kind, _in_loop(data, prefix), data, prefix) for (kind, data), prefix in zip(given, prefixes)]


def _in_loop(given: Any, prefix: str) -> Any:
    if isinstance(given, dict):
        inside = {n.removeprefix(prefix): given[n] for n in given if isinstance(n, str) and n.startswith(prefix)}
        return {name: _indexable(value) for name, value in {**given, **inside}.items()}

    def by_either_name(site: dict) -> Any:
        value = given(site)
        return given({**site, "name": prefix + site["name"]}) if value is None else value

    return by_either_name if prefix else given


def _indexable(value: Any) -> Any:
    """Return an array of NumPy as one of JAX, which a loop can index by its time."""
    value = as_arrays(value)
    return jnp.asarray(value) if isinstance(value, np.ndarray) else value
