"""What `trace` was given, kept on the host: all that a model needs of it to be traced again, and to name its axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ssmscan.labels import Labels
from ssmscan.model.statespace.checking import Written

M = TypeVar("M")


class Retraceable(Written, Protocol[M]):
    """What `trace` was given; made by `ssmscan.model.tracing`."""

    @property
    def model(self) -> Callable:
        """The model itself."""

    @property
    def fixed(self) -> tuple[str, ...]:
        """Printed paths of the arrays that were made static."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Why the time has no coordinate where arguments have some, in sentences."""

    @property
    def labels(self) -> Labels:
        """Names of the axes and what stands along them."""

    def with_data(self, ssm: M, *args: Any, **kwargs: Any) -> M:
        """Return the model with other data."""

    def with_roles(self, parameters: tuple[str, ...], initial: tuple[str, ...]) -> M:
        """Trace again with roles declared."""

    def with_labels(self, ssm: M, time: Any, dims: Any, coords: Any) -> M:
        """Return the model with names for its axes declared."""

    def named_data(self) -> dict[str, Any]:
        """Return the leaves that are data by the argument of the model that they are in."""

    def data_paths(self) -> list[str]:
        """Return the printed paths of the leaves that are data."""
