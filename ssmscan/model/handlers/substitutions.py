"""Names to which `condition` and `substitute` handlers give values, and whether a site answers to each.

NumPyro ignores a name that meets no site.  What was meant as data is then drawn, and every number that follows is
that of another model, so that a name without a site is an error here.  A handler reaches the sites that stand inside
it: outside loops by their messages, in a loop by the mapping it hands to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher
from typing import Any

from numpyro import handlers
from numpyro.primitives import _PYRO_STACK, Messenger

from ssmscan.errors import ModelError
from ssmscan.model.handlers.messages import clean_name
from ssmscan.model.handlers.names import seen_by
from ssmscan.model.handlers.scans import Loop

_ANSWERING = {
    handlers.condition: ("sample",),
    handlers.substitute: ("sample", "param", "mutable", "plate", "deterministic"),
}


class Handled(Messenger):
    """See the handlers that are active at each site; stands between the model and what runs it.

    Attributes:
        met: by identity of the mapping of a handler: its kind, the mapping, and the names that answer to it.
        sites: names of all sample statements.
        written: of sites of a loop with a scope around it, identity of a mapping outside the scope, name in the loop,
            and name at the handler.
    """

    def __init__(self):
        self.met: dict[int, tuple[str, dict, set[str]]] = {}
        self.sites: set[str] = set()
        self.written: set[tuple[int, str, str]] = set()
        super().__init__()

    def process_message(self, msg: dict) -> None:
        """Record the name of a site with every handler around it."""
        name, hidden = str(msg.get("name")), any(isinstance(h, handlers.block) for h in _PYRO_STACK)
        if msg["type"] == "sample":
            self.sites.add(name)
        for handler, seen in seen_by(msg["type"], name, _PYRO_STACK):
            kinds = next((kinds for kind, kinds in _ANSWERING.items() if isinstance(handler, kind)), ())
            # Of what a block hides nothing is seen, so that nothing is known of the handlers inside it.
            if kinds and isinstance(handler.data, dict) and not hidden:
                none: set[str] = set()
                entry = self.met.setdefault(id(handler.data), (type(handler).__name__, handler.data, none))
                entry[2].update({seen} if msg["type"] in kinds else none)

    def around(self, loop: Loop, names: Iterable[str]) -> None:
        """Record the sample statements of a loop, by the names that they have in it, with the handlers around it."""
        names, prefix = set(names), loop.prefixes.get("sample", "")
        self.sites |= {prefix + name for name in names}
        for _, _, given, between in loop.substitutions:
            if id(given) in self.met:
                self.met[id(given)][2].update(between + name for name in names)
                self.written.update((id(given), name, between + name) for name in names if between)

    def refuse_unmet(self) -> None:
        """Raise if a handler gives a value to a name without a site.

        Raises:
            ModelError: the message names it, and the sites it may have meant.
        """
        for kind, mapping, met in self.met.values():
            written = [(name, scoped) for given, name, scoped in sorted(self.written) if given == id(mapping)]
            for name in (name for name, value in mapping.items() if value is not None):
                scoped = [outside for inside, outside in written if inside == name]
                if name not in met and not scoped:
                    self._refuse(kind, name, met)
                if name in met and (others := [outside for outside in scoped if outside not in mapping]):
                    self._refuse_both(kind, name, others[0])

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
