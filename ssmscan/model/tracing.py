"""`trace`: from a NumPyro model and its arguments to a `StateSpaceModel`.

Arguments are split first.  JAX and NumPy arrays among their leaves are data, which enter every
staged function as inputs; everything else (None, numbers, strings, callables) is static and becomes
part of the program.  An array whose values the model needs in Python, through `np.asarray` or as a
shape, is made static too, and the printed table says "fixed at trace", see `staging.fixed_arrays`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ssmscan.arguments import require_function, require_texts
from ssmscan.errors import ModelError
from ssmscan.labels import Labels
from ssmscan.model import declared_labels, labelling
from ssmscan.model.handlers.missing import Gaps
from ssmscan.model.handlers.scans import NoInputs, SeveralLoops
from ssmscan.model.handlers.stack import exclusive, refuse_active_handlers
from ssmscan.model.staging.discovery import discover
from ssmscan.model.staging.fixed_arrays import fewest_fixed, takes_arrays
from ssmscan.model.staging.leaves import flatten, is_array, names_of_leaves
from ssmscan.model.staging.new_data import require_same_program
from ssmscan.model.staging.table_axes import has_axes, require_dates_in_order
from ssmscan.model.staging.user_arguments import explain, raise_explained, refuse_call
from ssmscan.model.statespace import data
from ssmscan.model.statespace.core import Core
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.normal_integral import with_states_integrated
from ssmscan.model.statespace.over_arrays import over_arrays
from ssmscan.model.statespace.partition import build_parts
from ssmscan.model.statespace.program import Program, build
from ssmscan.model.statespace.requirements import require_traced, unread_warning
from ssmscan.model.validation import validate


class Source(NamedTuple):
    """What `trace` was given, kept on the host.

    Attributes:
        model: the NumPyro model.
        leaves: leaves of (args, kwargs), arrays canonical.
        tree: their structure.
        data: positions of the leaves that are data.
        fixed: printed paths of the arrays that were made static.
        parameters: names declared parameters.
        initial: names declared initial states.
        gaps: names of the observed sites in whose values NaNs were found.
        states_integrated: whether `integrate_states` was asked for.
        found: names of the axes and what stands along them, as the arguments have them.
        declared: those that `with_labels` declared.
    """

    model: Callable
    leaves: tuple
    tree: jax.tree_util.PyTreeDef
    data: tuple[int, ...]
    fixed: tuple[str, ...]
    parameters: tuple[str, ...]
    initial: tuple[str, ...]
    gaps: frozenset[str] = frozenset()
    states_integrated: bool = False
    found: labelling.Found = labelling.Found()
    declared: Labels = Labels()

    @property
    def labels(self) -> Labels:
        """Names of the axes and what stands along them, as declared where they are."""
        return declared_labels.merged(self.found.labels, self.declared)

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be taken from the arguments, unless it was declared since."""
        return () if self.declared.coords else self.found.notes

    def call(self, arrays: list) -> Any:
        """Run the model with its data replaced."""
        leaves = list(self.leaves)
        for position, array in zip(self.data, arrays):
            leaves[position] = array
        args, kwargs = jax.tree.unflatten(self.tree, leaves)
        return self.model(*args, **kwargs)

    def meet(self, leaves: tuple, data: tuple[int, ...]) -> Any:
        """Run the model over other arguments, abstractly."""
        source = self._replace(leaves=leaves, data=data)
        return discover(source.call, source.arrays, Gaps())

    def arguments(self) -> tuple[tuple, dict]:
        """Return positional and keyword arguments as they were given, arrays canonical."""
        return jax.tree.unflatten(self.tree, self.leaves)

    @property
    def arrays(self) -> list:
        """The leaves that are data."""
        return [self.leaves[i] for i in self.data]

    def over_arrays(self, ssm: StateSpaceModel) -> tuple[StateSpaceModel, Source]:
        """Return the model with arrays in the place of tables where it takes them, and its source."""
        found = over_arrays(
            ssm, self.leaves, self.data, lambda new, data: assemble(self._replace(leaves=new, data=data))
        )
        return (ssm, self) if found is None else (found, found.source)  # type: ignore[return-value]

    def named_data(self) -> dict[str, Any]:
        """Return the leaves that are data by the argument of the model that they are in, such as "y" and "x.rain"."""
        args, kwargs = jax.tree.unflatten(self.tree, range(len(self.leaves)))
        names = names_of_leaves(self.model, args, kwargs)
        return {names[i]: self.leaves[i] for i in self.data}

    def data_paths(self) -> list[str]:
        """Return the printed paths of the leaves that are data."""
        paths = self.paths()
        return [paths[i] for i in self.data]

    def paths(self) -> list[str]:
        """Return the printed paths of all leaves."""
        args, kwargs = jax.tree.unflatten(self.tree, range(len(self.leaves)))
        return flatten(args, kwargs)[2]

    def with_roles(self, parameters: tuple[str, ...], initial: tuple[str, ...]) -> StateSpaceModel:
        """Trace again with roles declared.

        Raises:
            TypeError: the names are not several, or not text.
            ModelError: a site cannot have the role; the message says why.
        """
        names = "names of sites, as a tuple"
        parameters = require_texts("parameters", parameters, names)
        initial = require_texts("initial", initial, names)
        return assemble(self._replace(parameters=parameters, initial=initial))

    def with_labels(self, ssm: StateSpaceModel, time: Any, dims: Any, coords: Any) -> StateSpaceModel:
        """Return the model with names for its axes declared."""
        found, declared = self.found.labels, self.declared
        labels = declared_labels.declare(ssm.cores, found, declared, time, dims, coords)
        return StateSpaceModel(ssm.cores, self._replace(declared=labels))

    def with_data(self, ssm: StateSpaceModel, *args: Any, **kwargs: Any) -> StateSpaceModel:
        """Return the model of this source over other data, after checking that only data changed.

        It is traced again only if values are missing where none were, for the program does not depend on data; and if
        a table of pandas has other values, which the model turns into arrays itself.  Its dates are then those of the
        new one, whatever `with_labels` said of the old.

        Raises:
            ValueError: an argument has another structure, shape or dtype, or a table other columns, or a static value
                changed; it is named.
        """
        leaves, tree, paths = flatten(args, kwargs)
        if tree != self.tree:
            raise ValueError(
                f"with_data got arguments of structure {tree}; the model was traced with {self.tree}. Pass the same "
                "arguments in the same way, or call ssmscan.trace again."
            )
        tables = require_same_program(paths, self.leaves, leaves, self.data)
        source = self._replace(leaves=tuple(leaves))
        if tables:
            return assemble(source)
        arrays = tuple(leaves[i] for i in self.data)
        new = StateSpaceModel(tuple(core.with_data(arrays) for core in ssm.cores), source)
        if any(isinstance(a, jax.core.Tracer) for a in arrays):
            return new
        with jax.ensure_compile_time_eval():
            known = all(source.gaps >= data.with_missing(core) for core in new.cores)
            for core in new.cores if known else ():
                _check_data(core)
        return new if known else assemble(source)


@exclusive
def trace(model: Callable, *args: Any, **kwargs: Any) -> StateSpaceModel:
    """Take a NumPyro model apart into the pure functions that engines need.

    The model's time loop is `numpyro.contrib.control_flow.scan`, or arithmetic (`jax.lax.scan`, `cumsum`) on noise that
    it draws before. It is run a few times, abstractly; nothing of it runs again later. Print the result to see every
    site, its role and the reason.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ssmscan
        >>> from numpyro.contrib.control_flow import scan
        >>> def random_walk(y):
        ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        ...     def step(x, y):
        ...         x = numpyro.sample("x", dist.Normal(x, scale))
        ...         numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     scan(step, 0.0, y)
        >>> print(ssmscan.trace(random_walk, jnp.array([0.3, 0.9, 1.4])))
        State-space model of 3 steps
        site   role         distribution  shape  noise  why
        -----  -----------  ------------  -----  -----  -------------------------------------------
        scale  parameter    HalfNormal                  acts on every step: the distribution of 'x'
        x      innovation   Normal               exact  drawn at every step
        y      observation  Normal                      observed at every step

    Args:
        model: an ordinary NumPyro model.
        args, kwargs: its arguments; all keywords are the model's.

    Returns:
        The model over the arrays among the arguments.

    Raises:
        ModelError: the model cannot be taken apart; the message names the site and the way out.
        TypeError: the model does not take these arguments, or fails on one that is no array; the message names it.
        ValueError: the dates of a table are not in order.
    """
    require_function("model", model, "a NumPyro model (a function)")
    refuse_active_handlers()
    refuse_call(model, args, kwargs)
    leaves, tree, _ = flatten(args, kwargs)
    if getattr(model, "noise_is_outside", False):
        raise TypeError(
            "model: expected the model as it was written, got what noise_outside made of it. Trace the model itself: "
            "engines move its noise outside where they need it."
        )
    positions = tuple(i for i, leaf in enumerate(leaves) if is_array(leaf))
    ssm = assemble(Source(model, tuple(leaves), tree, positions, (), (), ()))
    for warning in (unread_warning(ssm), *ssm.source.notes):  # type: ignore[union-attr]
        if warning:
            warnings.warn(warning, stacklevel=2)
    validate(ssm)
    return ssm


@exclusive
def assemble(source: Source) -> StateSpaceModel:
    """Stage a source; arrays whose values the model needs become static."""
    for path, leaf in zip(source.paths(), source.leaves):
        require_dates_in_order(path, leaf)
    try:
        used, ssm = _assemble_fixed(source)
        # What is known is looked at now, also while somebody's jit is being traced.
        known = not any(isinstance(a, jax.core.Tracer) for core in ssm.cores for a in core.arrays)
        with jax.ensure_compile_time_eval():
            found = [data.with_missing(core) for core in ssm.cores] if known else []
            gaps = used.gaps.union(*found)
        if gaps != used.gaps:
            ssm = _assemble(used._replace(gaps=gaps))
    except NoInputs as error:
        suspects = explain(error, *source.arguments())
        raise ModelError(str(error) + (f" Look at what the model was given: {suspects}." if suspects else "")) from None
    except ModelError as error:
        # JAX has added a note on its own traceback to what is a message to the user.
        raise ModelError(str(error)) from None
    except Exception as error:
        raise_explained(error, *source.arguments(), tables=takes_arrays(source.leaves, source.data, source.meet))
        raise
    if known:
        with jax.ensure_compile_time_eval():
            for core in ssm.cores:
                _check_data(core)
    ssm = _labelled(ssm, known)
    return integrate_states(ssm) if source.states_integrated else ssm


def _labelled(ssm: StateSpaceModel, known: bool) -> StateSpaceModel:
    """Return a model with the labels of its arguments; those of other data replace what was declared of the time."""
    source: Source = ssm.source  # type: ignore[assignment]
    paths = source.paths()
    with jax.ensure_compile_time_eval():
        observed = ssm.observed if known and any(map(has_axes, source.leaves)) else {}
    found = labelling.find(ssm.cores, source.leaves, paths, observed)
    declared = declared_labels.still_declared(source.declared, source.found.labels, found.labels)
    return StateSpaceModel(ssm.cores, source._replace(found=found, declared=declared))


def integrate_states(ssm: StateSpaceModel) -> StateSpaceModel:
    """Return a linear Gaussian model whose states NUTS, TemperedSMC and `ssm.check` integrate out exactly.

    They then move the parameters alone, and draw the states afterwards.  A particle engine filters the model as before;
    its exact likelihood is `ExactLikelihood()`.  Results of the two models can be compared.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, ssmscan
        >>> from numpyro.contrib.control_flow import scan
        >>> def random_walk(y):
        ...     scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        ...     def step(x, y):
        ...         x = numpyro.sample("x", dist.Normal(x, scale))
        ...         numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
        ...         return x, None
        ...     scan(step, 0.0, y)
        >>> ssm = ssmscan.integrate_states(ssmscan.trace(random_walk, jnp.array([0.3, 0.9, 1.4])))
        >>> print(f"{ssm.log_likelihood_given_noise({'scale': 0.5}, {}):.4f}")
        -3.9292

    Args:
        ssm: what `ssmscan.trace` returned.

    Raises:
        ModelError: the model is not linear and Gaussian in its states; the message says why.
    """
    require_traced(ssm)
    cores = tuple(Core(with_states_integrated(core.program), core.arrays) for core in ssm.cores)
    source = ssm.source
    return StateSpaceModel(cores, source._replace(states_integrated=True) if isinstance(source, Source) else source)


def _assemble_fixed(source: Source) -> tuple[Source, StateSpaceModel]:
    """Stage a source, arrays static whose values the model needs in Python."""

    paths = source.paths()

    def attempt(leaves: tuple, data: tuple[int, ...]) -> tuple[Source, StateSpaceModel]:
        fixed = (*source.fixed, *(paths[i] for i in source.data if i not in data))
        used = source._replace(leaves=leaves, data=data, fixed=fixed)
        return used, _assemble(used)

    return fewest_fixed(source.leaves, source.data, attempt)


def _assemble(source: Source) -> StateSpaceModel:
    arrays = source.arrays
    try:
        program, table = build(source.call, arrays, source.parameters, source.initial, source.gaps)
    except SeveralLoops as found:
        loops = found.loops
    else:
        return StateSpaceModel((_core(program, table),), source)
    built = build_parts(source.call, arrays, loops, source.parameters, source.initial, source.gaps)
    return StateSpaceModel(tuple(_core(program, table) for program, table in built), source)


def _core(program: Program, table: list) -> Core:
    return Core(program, tuple(jnp.asarray(a) for a in table))


def _check_data(core: Core) -> None:
    data.refuse_gaps(core)
    sites = {site.name: site for site in core.program.sites}
    for name, invalid in jax.device_get(data.invalid(core)).items():
        if np.any(invalid):
            site = sites[name]
            where = f" at step {int(np.argmax(invalid))} (counted from 0)" if site.in_loop else ""
            raise ModelError(
                f"observed site '{name}'{where} holds a value outside the support of {site.family} ({site.support}), "
                "so its log-probability is not finite. Correct the data, or make the value NaN where it is missing."
            )
