"""The public functions of `inference/` and `results/`; see `tests.fuzz.calls`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import ssmscan
from tests.fuzz import values, world
from tests.fuzz.calls import Call, model_calls, particle_calls
from tests.fuzz.values import FLAG, KEY, count, number


def calls() -> list[Call]:
    """All of them."""
    return [*model_calls(), *particle_calls(), *inference_calls(), *result_calls()]


def inference_calls() -> list[Call]:
    ssm, theta, key = world.model(), world.THETA, world.KEY
    paths = count(0)

    def engine(settings: Any) -> Call:
        return Call(
            f"{type(settings).__name__}.run",
            "inference",
            settings.run,
            {"key": key, "ssm": ssm},
            {"key": KEY, "ssm": values.models},
            names={"ssm": ("ssm", "trace")},
        )

    def settings(kind: type, **kinds: Any) -> Call:
        return Call(
            kind.__name__,
            "inference",
            kind,
            {},
            {**kinds, "progress": FLAG},
            free={"progress": "only whether a bar is shown"},
            use=use_filter,
        )

    def use_filter(made: Any) -> Any:
        """Run what was given something else than a filter."""
        given = getattr(made, "particle_filter", None)
        return made if given is None or isinstance(given, ssmscan.ParticleFilter) else made.run(key, ssm)

    return [
        settings(
            ssmscan.NUTS,
            num_warmup=count(),
            num_samples=count(),
            num_chains=count(),
            target_accept=number(0, 1),
            max_tree_depth=count(),
            num_paths=paths,
        ),
        settings(
            ssmscan.PMMH,
            num_samples=count(),
            num_warmup=count(8),
            num_chains=count(),
            num_particles=count(2).without(lambda value: value is None),
            target_sd=number(0, 5),
            estimator=values.filters,
            num_paths=paths,
        ),
        settings(
            ssmscan.TemperedSMC,
            num_particles=count(40),
            num_runs=count(2),
            chain_length=count(2),
            num_leapfrog=count(),
            target_ess=number(0, 1),
            num_paths=paths,
        ),
        settings(
            ssmscan.MaximumLikelihood,
            num_steps=count(20),
            num_starts=count(),
            optimizer=values.but(lambda value: value is None, values.of("'adam'", "adam")),
            prior=FLAG,
            average=number(0, 1),
            num_replicates=count(2),
            estimator=values.estimators,
        ),
        engine(ssmscan.NUTS(num_warmup=5, num_samples=5, num_chains=1, progress=False)),
        engine(ssmscan.PMMH(num_samples=8, num_warmup=8, num_chains=1, num_particles=4, progress=False)),
        engine(ssmscan.TemperedSMC(num_particles=40, num_runs=2, progress=False)),
        engine(ssmscan.MaximumLikelihood(num_steps=20, num_starts=1, progress=False)),
        Call(
            "long_run",
            "inference",
            ssmscan.long_run,
            {
                "key": key,
                "ssm": ssm,
                "theta": theta,
                "particle_filter": ssmscan.ParticleFilter(8),
                "start": None,
                "progress": False,
            },
            {
                "key": KEY,
                "ssm": values.other_models,
                "theta": values.theta,
                "particle_filter": values.filters,
                "start": values.but(lambda v: v is None, values.of("filtered", world.filtered())),
                "progress": FLAG,
            },
            names={"ssm": ("ssm", "theta", "trace", "model")},
            free={"progress": "only whether a bar is shown"},
        ),
        Call(
            "predict",
            "inference",
            ssmscan.predict,
            {"key": key, "ssm": ssm, "result": world.result(), "num_draws": 2},
            {
                "key": KEY,
                "ssm": values.other_models,
                "result": values.results,
                "num_draws": count(1, 6).without(lambda value: value is None),
            },
            names={"ssm": ("ssm", "trace", "model"), "result": ("result",)},
        ),
    ]


def result_calls() -> list[Call]:
    one, two = world.result(0), world.result(3)
    fields = {
        "engine": "NUTS",
        "draws": {"s": np.ones((2, 4))},
        "states": {},
        "state_draws": np.zeros(0, int),
        "sample_stats": {},
        "independent_runs": False,
        "log_evidence": None,
        "log_evidence_error": None,
        "costs": one.costs,
        "settings": {},
        "versions": {},
        "observed": {},
    }
    arrays = values.but(
        lambda value: isinstance(value, dict),
        values.of("{'s': 'a'}", {"s": "a"}),
        values.of("{'s': [[1, 2], [3]]}", {"s": [[1, 2], [3]]}),
        values.of("{'s': None}", {"s": None}),
        values.of("{1: np.ones((2, 4))}", {1: np.ones((2, 4))}),
        values.of("{'s': np.ones(3)}", {"s": np.ones(3)}),
        values.of("{'s': np.ones((3, 4))}", {"s": np.ones((3, 4))}),
        values.of("{'s': 1j * np.ones((2, 4))}", {"s": 1j * np.ones((2, 4))}),
        values.of("{'s': object array}", {"s": np.full((2, 4), None)}),
    )
    labels = values.but(lambda value: False, values.of("'nobody'", "nobody"), values.of("('s',)", ("s",)))
    axes = values.but(lambda value: value is None, values.of("plt", __import__("matplotlib.pyplot").pyplot))
    element = values.but(
        lambda value: value == () if isinstance(value, tuple) else False,
        values.of("(0,)", (0,)),
        values.of("(-1, 'a')", (-1, "a")),
        values.of("0", 0),
    )

    def close(figure: Any) -> None:
        import matplotlib.pyplot as plt

        plt.close("all")

    return [
        Call(
            "Result",
            "results",
            lambda **changes: ssmscan.Result(**{**fields, **changes}),
            {},
            {
                "draws": arrays,
                "states": arrays,
                "sample_stats": arrays,
                "observed": values.but(lambda v: isinstance(v, dict), values.of("{'y': 'a'}", {"y": "a"})),
                "state_draws": values.but(lambda v: False, values.of("[9]", [9]), values.of("[0.5]", [0.5])),
                "independent_runs": FLAG,
                "log_evidence": values.but(lambda v: v is None or isinstance(v, float | int)),
                "costs": values.but(lambda v: False),
                "settings": values.but(lambda v: isinstance(v, dict)),
                "notes": values.but(lambda v: v in ((), []) if isinstance(v, tuple | list) else False),
                "initial": values.but(lambda v: v in ((), []) if isinstance(v, tuple | list) else False),
            },
            use=lambda made: (made.summary(), str(made), made.save(Path(tempfile.mkdtemp()) / "x.nc")),
            names={"draws": ("draws", "Result"), "initial": ("initial",)},
            examples=10,
        ),
        Call(
            "Result.save",
            "results",
            lambda path: one.save(path),
            {"path": Path(tempfile.mkdtemp()) / "x.nc"},
            {"path": values.save_places},
            names={"path": ("path", "save", "folder")},
        ),
        Call(
            "Result.to_arviz",
            "results",
            lambda posterior_predictive: one.to_arviz(posterior_predictive=posterior_predictive),
            {"posterior_predictive": None},
            {
                "posterior_predictive": values.but(
                    lambda v: v is None or v == {} if isinstance(v, dict | None) else False,
                    values.of("{'y': 'a'}", {"y": "a"}),
                    values.of("{'y': np.ones(3)}", {"y": np.ones(3)}),
                    values.of("{1: np.ones((2, 40))}", {1: np.ones((2, 40))}),
                )
            },
        ),
        Call(
            "load",
            "results",
            ssmscan.load,
            {"path": one.save(Path(tempfile.mkdtemp()) / "x.nc")},
            {"path": values.load_files},
            names={"path": ("path", "file", "folder", "Result", "load")},
        ),
        Call(
            "compare",
            "results",
            lambda a, b: ssmscan.compare(a=a, b=b),
            {"a": one, "b": two},
            {"b": values.results},
            names={"b": ("b", "engines", "results")},
        ),
        Call(
            "plots.states",
            "results",
            ssmscan.plots.states,
            {"source": one, "site": "x"},
            {
                "source": values.plotted_filters,
                "site": labels,
                "element": element,
                "probabilities": values.but(
                    lambda v: False,
                    values.of("(0.1, 0.9)", (0.1, 0.9)),
                    values.of("(2.0,)", (2.0,)),
                    values.of("0.9", 0.9),
                ),
                "times": values.but(lambda v: v is None, values.of("np.arange(9)", np.arange(9))),
                "observed": values.but(lambda v: v is None, values.of("np.arange(9)", np.arange(9))),
                "ax": axes,
            },
            examples=10,
            use=close,
            names={"probabilities": ("probabilit", "quantile"), "site": ("site", "state")},
        ),
        Call(
            "plots.ess",
            "results",
            ssmscan.plots.ess,
            {"filtered": world.filtered()},
            {"filtered": values.plotted_filters, "ax": axes},
            use=close,
            examples=10,
            names={"filtered": ("filtered", "filter", "ess")},
        ),
        Call(
            "plots.agreement",
            "results",
            ssmscan.plots.agreement,
            {"comparison": world.comparison()},
            {
                "comparison": values.results,
                "parameters": values.but(
                    lambda v: v is None, values.of("['nobody']", ["nobody"]), values.of("'s'", "s")
                ),
                "ax": axes,
            },
            use=close,
            examples=10,
            names={"parameters": ("parameter",)},
        ),
        Call(
            "plots.posterior",
            "results",
            ssmscan.plots.posterior,
            {"results": {"a": one, "b": two}, "parameter": "s"},
            {"results": values.plotted_filters, "parameter": labels, "ax": axes},
            use=close,
            examples=10,
            names={"results": ("result",)},
        ),
    ]
