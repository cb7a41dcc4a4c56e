"""Every public function: a proper call of it, and what kind of mistake each argument invites.

A call is given by `make`, which takes the arguments by name; `use` is what shows that an accepted settings object
works, where making it is not yet using it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ssmscan
from tests.fuzz import values, world
from tests.fuzz.values import KEY, count, number

Kinds = Mapping[str, values.Kind | Callable[[], values.Kind]]


@dataclass(frozen=True)
class Call:
    """A public function.

    Attributes:
        name: how users write it.
        area: folder whose matter it is.
        make: the call, by keyword.
        proper: arguments with which it works.
        kinds: argument -> mistakes.
        examples: how many plain values to try for each argument.
        use: what to do with the outcome.
        names: argument -> other words by which an error may name it.
        free: arguments whose every value is taken, and why that is harmless.
    """

    name: str
    area: str
    make: Callable[..., Any]
    proper: Mapping[str, Any]
    kinds: Kinds
    examples: int = 20
    use: Callable[[Any], Any] | None = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    free: Mapping[str, str] = field(default_factory=dict)


def model_calls() -> list[Call]:
    ssm, theta, key = world.model(), world.THETA, world.KEY
    states = {"x0": jnp.zeros(()), "x": jnp.zeros(world.T)}
    any_mapping = values.but(
        lambda value: False,
        values.of("{}", {}),
        values.of("{'x': 0.0}", {"x": 0.0}),
        values.of("{'x': 'a', 'x0': 0.0}", {"x": "a", "x0": 0.0}),
        values.of("{'x': zeros(T), 'x0': zeros(2)}", {"x": jnp.zeros(world.T), "x0": jnp.zeros(2)}),
        values.of("{'x': zeros(9), 'x0': 0.0}", {"x": jnp.zeros(9), "x0": jnp.zeros(())}),
        values.of("{'x': zeros(T), 'x0': 0.0, 'k': 1}", {"x": jnp.zeros(world.T), "x0": jnp.zeros(()), "k": 1}),
        values.of("{'x': nan, 'x0': 0.0}", {"x": jnp.full(world.T, jnp.nan), "x0": jnp.zeros(())}),
    )
    names = values.but(
        lambda value: value in ((), [], {}) if isinstance(value, tuple | list | dict) else False,
        values.of("'s'", "s"),
        values.of("('s', 's')", ("s", "s")),
        values.of("('x',)", ("x",)),
        values.of("('nobody',)", ("nobody",)),
        values.of("(1,)", (1,)),
    )

    def method(name: str, proper: dict, kinds: dict, **rest: Any) -> Call:
        def make(ssm: Any, **arguments: Any) -> Any:
            return getattr(ssm, name)(**arguments)

        proper, kinds = {"ssm": ssm, **proper}, {**kinds}
        return Call(f"ssm.{name}", "model", make, proper, kinds, **rest)

    z = {"s": jnp.zeros(())}
    return [
        Call(
            "trace",
            "model",
            lambda model, y: ssmscan.trace(model, y),
            {"model": world.level, "y": world.Y},
            {"model": values.CALLABLES, "y": values.data},
            names={"y": ("y", "data", "scan", "site", "argument"), "model": ("model", "transition", "site")},
        ),
        Call(
            "trace (names of arguments)",
            "model",
            lambda arguments: ssmscan.trace(world.level, **arguments),
            {"arguments": {"y": world.Y}},
            {"arguments": values.Kind((values.of("{}", {}), values.of("z=y", {"z": world.Y})), None)},
            names={"arguments": ("y", "z", "argument")},
        ),
        Call(
            "noise_outside",
            "model",
            lambda model, initial: ssmscan.noise_outside(model, initial=initial),
            {"model": world.level, "initial": None},
            {"model": values.CALLABLES, "initial": names},
            use=world.density,
            names={"model": ("model", "transition")},
        ),
        method("canonical", {"theta": theta}, {"theta": values.theta}),
        method("simulate", {"key": key, "theta": theta}, {"key": KEY, "theta": values.theta}),
        method("sample_prior", {"key": key}, {"key": KEY}),
        method("sample_start", {"key": key}, {"key": KEY}),
        method("log_prior", {"theta": theta}, {"theta": values.theta}, examples=10),
        method("log_static", {"theta": theta}, {"theta": values.theta}, examples=10),
        method("unconstrain", {"theta": theta}, {"theta": values.theta}, examples=10),
        method("constrain", {"z": z}, {"z": values.theta}, examples=10),
        method("log_prior_unconstrained", {"z": z}, {"z": values.theta}, examples=10),
        method(
            "log_likelihood_given_noise",
            {"theta": theta, "noise": world.noise()},
            {"theta": values.theta, "noise": any_mapping},
            examples=10,
        ),
        method(
            "states_from_noise",
            {"theta": theta, "noise": world.noise()},
            {"theta": values.theta, "noise": any_mapping},
            examples=10,
        ),
        method(
            "predict",
            {"key": key, "theta": theta, "states": states},
            {"key": KEY, "theta": values.theta, "states": any_mapping},
            examples=10,
        ),
        Call(
            "ssm.with_data",
            "model",
            lambda y: ssm.with_data(y),
            {"y": world.Y},
            {"y": values.data},
            names={"y": ("y", "data", "argument", "array")},
        ),
        method(
            "with_roles", {"parameters": ()}, {"parameters": names}, names={"parameters": ("parameter", "role", "'")}
        ),
        method("check", {"key": key}, {"key": KEY}, examples=10),
    ]


def particle_calls() -> list[Call]:
    ssm, theta, key = world.model(), world.THETA, world.KEY
    filter_ = ssmscan.ParticleFilter(8)

    def try_filter(settings: Any) -> Any:
        return jax.eval_shape(lambda: settings.run(key, ssm, theta))

    def settings(**arguments: Any) -> Any:
        return ssmscan.ParticleFilter(**arguments)

    def scheme(name: str) -> Call:
        return Call(
            name,
            "particles",
            lambda key, weights, n: getattr(ssmscan, name)(key, weights, n),
            {"key": key, "weights": np.array([0.5, 0.5], np.float32), "n": 4},
            {"key": KEY, "weights": values.WEIGHTS, "n": count(1, 10**6)},
        )

    return [
        Call(
            "ParticleFilter",
            "particles",
            settings,
            {"num_particles": 8},
            {
                "num_particles": count(2),
                "resampling": values.SCHEMES,
                "threshold": number(0, 1, closed=True),
                "proposal": values.PROPOSALS,
                "summaries": values.SUMMARIES,
                "store": values.STORES,
            },
            use=try_filter,
        ),
        Call("LastSteps", "particles", ssmscan.LastSteps, {"num_steps": 2}, {"num_steps": count()}),
        Call("Ancestry", "particles", ssmscan.Ancestry, {"room": 16.0}, {"room": number(0, 1e300)}),
        Call(
            "Quantiles",
            "particles",
            ssmscan.Quantiles,
            {"probs": (0.5,)},
            {
                "probs": values.but(
                    lambda value: False,
                    values.of("0.5", 0.5),
                    values.of("(0.5, 2.0)", (0.5, 2.0)),
                    values.of("[0.1, 0.9]", [0.1, 0.9], (0.1, 0.9)),
                    values.of("'0.5'", "0.5"),
                    values.of("('0.5',)", ("0.5",)),
                    values.of("(np.nan,)", (np.nan,)),
                    values.of("((0.1, 0.9),)", ((0.1, 0.9),)),
                    values.of("np.array([[0.1], [0.9]])", np.array([[0.1], [0.9]])),
                    values.of("np.array([0.1, 0.9])", np.array([0.1, 0.9]), (0.1, 0.9)),
                )
            },
            use=lambda quantiles: try_filter(ssmscan.ParticleFilter(8, summaries=(quantiles,))),
        ),
        Call(
            "ParticleFilter.run",
            "particles",
            filter_.run,
            {"key": key, "ssm": ssm, "theta": theta},
            {"key": KEY, "ssm": values.other_models, "theta": values.theta},
            names={"ssm": ("ssm", "theta", "trace")},
        ),
        Call(
            "ParticleFilter.start",
            "particles",
            filter_.start,
            {"key": key, "ssm": ssm, "theta": theta},
            {"key": KEY, "ssm": values.other_models, "theta": values.theta},
            names={"ssm": ("ssm", "theta", "trace", "model")},
        ),
        Call(
            "ParticleFilter.update",
            "particles",
            filter_.update,
            {"online": world.online(), "ssm": ssm, "theta": theta, "num_steps": 1},
            {
                "online": values.but(lambda value: False, values.of("filtered", world.filtered())),
                "ssm": values.other_models,
                "theta": values.theta,
                "num_steps": count(1, 5),
            },
            names={"ssm": ("ssm", "theta", "trace", "model"), "online": ("online", "start")},
        ),
        Call(
            "log_likelihood",
            "particles",
            lambda **a: ssmscan.log_likelihood(**a),
            {"key": key, "ssm": ssm, "theta": theta, "num_particles": 8},
            {"key": KEY, "ssm": values.other_models, "theta": values.theta, "num_particles": count(2, 10**6)},
            names={"ssm": ("ssm", "theta", "trace")},
            examples=10,
        ),
        Call(
            "trace_ancestry",
            "particles",
            ssmscan.trace_ancestry,
            {"key": key, "result": world.filtered_full(), "num_paths": 2},
            {"key": KEY, "result": values.filter_results, "num_paths": count(1, 10**5)},
        ),
        Call(
            "backward_sample",
            "particles",
            ssmscan.backward_sample,
            {"key": key, "ssm": ssm, "theta": theta, "result": world.filtered_full(), "num_paths": 2},
            {
                "key": KEY,
                "ssm": values.other_models,
                "theta": values.theta,
                "result": values.filter_results,
                "num_paths": count(1, 10**5),
            },
            names={"ssm": ("ssm", "theta", "trace", "model", "result")},
        ),
        Call(
            "Online.save",
            "particles",
            lambda path: world.online().save(path),
            {"path": Path(tempfile.mkdtemp()) / "x.npz"},
            {"path": values.save_places},
            names={"path": ("path", "save", "folder")},
        ),
        Call(
            "resume",
            "particles",
            ssmscan.resume,
            {
                "path": world.online().save(Path(tempfile.mkdtemp()) / "x.npz"),
                "ssm": ssm,
                "theta": theta,
                "particle_filter": filter_,
            },
            {
                "path": values.resume_files,
                "ssm": values.other_models,
                "theta": values.theta,
                "particle_filter": values.filters,
            },
            names={"path": ("path", "file", "saved"), "ssm": ("ssm", "theta", "trace", "model")},
        ),
        *map(scheme, ("systematic", "stratified", "multinomial")),
    ]
