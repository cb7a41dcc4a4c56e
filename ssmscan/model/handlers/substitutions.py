"""Names to which `condition` and `substitute` handlers give values, and whether a site answers to each.

NumPyro ignores a name that meets no site.  What was meant as data is then drawn, and every number that follows is
that of another model, so that a name without a site is an error here.  A handler reaches the sites that stand inside
it: outside loops by their messages, in a loop by the mapping it hands to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from numpyro import handlers
from numpyro.primitives import _PYRO_STACK, Messenger

from ssmscan.errors import ModelError
from ssmscan.model.handlers.messages import clean_name
from ssmscan.model.handlers.names import seen_by
from ssmscan.model.handlers.scans import Loop

_ANSWERING = {
    handlers.condition: ("sample",),
    handlers.do: ("sample",),
    handlers.substitute: ("sample", "param", "mutable", "plate", "deterministic"),
}


class _Giving(NamedTuple):
    """A handler that gives values to sites by their names.

    Attributes:
        kind: its class.
        mapping: the values by name.
        names: names that answer to it, as it sees them.
        written: of sites of a loop with a scope between, pairs of their name in the loop and at the handler.
        hiding: of the `block` handlers around it, the functions that say which sites they hide.
    """

    kind: str
    mapping: dict
    names: set[str]
    written: set[tuple[str, str]]
    hiding: list[Callable]

    def hidden(self, name: Any) -> bool:
        """Return whether a block may hide a site of some name, so that nothing is known of it."""
        try:
            return any(hides({"type": "sample", "name": name}) for hides in self.hiding)
        except Exception:
            return True


class Handled(Messenger):
    """See the handlers that are active at each site; stands between the model and what runs it.

    Attributes:
        met: handlers that give values, by identity of their mapping.
        sites: names of all sample statements.
    """

    def __init__(self):
        self.met: dict[int, _Giving] = {}
        self.sites: set[str] = set()
        super().__init__()

    def process_message(self, msg: dict) -> None:
        """Record the name of a site with every handler around it."""
        name, hiding = str(msg.get("name")), []
        if msg["type"] == "sample":
            self.sites.add(name)
        for handler, seen in seen_by(msg["type"], name, _PYRO_STACK):
            if isinstance(handler, handlers.block):
                hiding.append(handler.hide_fn)
            kinds = next((kinds for kind, kinds in _ANSWERING.items() if isinstance(handler, kind)), ())
            if kinds and isinstance(handler.data, dict):
                new = _Giving(type(handler).__name__, handler.data, set(), set(), list(hiding))
                giving = self.met.setdefault(id(handler.data), new)
                giving.names.update([seen] if msg["type"] in kinds else [])

    def around(self, loop: Loop, names: Iterable[str]) -> None:
        """Record the sample statements of a loop, by the names that they have in it, with the handlers around it."""
        names, prefix = set(names), loop.prefixes.get("sample", "")
        self.sites |= {prefix + name for name in names}
        for _, _, given, between in loop.substitutions:
            if giving := self.met.get(id(given)):
                giving.names.update(between + name for name in names)
                giving.written.update((name, between + name) for name in names if between)

    def refuse_unmet(self) -> None:
        """Raise if a handler gives a value to a name without a site, or to two sites of one name.

        Raises:
            ModelError: the message names it, and the sites it may have meant.
        """
        for giving in self.met.values():
            for name in (name for name, value in giving.mapping.items() if value is not None):
                scoped = sorted(outside for inside, outside in giving.written if inside == name)
                if name not in giving.names and not scoped and not giving.hidden(name):
                    self._refuse(giving.kind, name, giving.names)
                others = [outside for outside in scoped if outside not in giving.mapping]
                if name in giving.names and others:
                    self._refuse_both(giving.kind, name, others[0])

    def _refuse_both(self, kind: str, name: Any, scoped: str) -> None:
        raise ModelError(
            f"handlers.{kind} gives a value to '{name}', which is a site of its own, and the name that '{scoped}' has "
            f"inside its scope: NumPyro would give the value to both. Give one to '{scoped}' too, or put the handler "
            "inside the scope."
        )

    def _refuse(self, kind: str, name: Any, met: set[str]) -> None:
        where = (
            "" if name not in self.sites else f" '{name}' stands outside it: put the handler around the whole model."
        )
        likely = sorted({clean_name(site) for site in met}, key=lambda site: (-_likeness(name, site), site))
        raise ModelError(
            f"handlers.{kind} gives a value to '{name}', which is no sample statement inside the handler, so that the "
            f"value would be ignored.{where} Its sites are, the most similar first: {', '.join(likely) or 'none'}. "
            "Correct the name, or drop it."
        )


def _likeness(name: Any, site: str) -> float:
    return SequenceMatcher(None, str(name).lower(), site.lower()).ratio()
