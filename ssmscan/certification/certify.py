"""`certify`: is this model computed as it should be, and how would one know?

    certificate = ssmscan.certify(ssm)
    print(certificate)

============= ===========================================================================  ===========
check         what it compares                                                             where
============= ===========================================================================  ===========
densities     every factor that engines read, with NumPyro's density of the model          as given
evidence      weights of the parts moved by noise, with forward runs of NumPyro            6 steps
forward draws states moved by noise and simulated, with forward runs of NumPyro            6 steps
likelihood    a filter's estimates, with that of a filter which contains the exact states  20 steps
PMMH, Gibbs,  the law of exact draws, with that after some steps of the kernel             20 steps
NUTS
agreement     two engines that share as little as possible                                 as given
calibration   places of true parameters in their posteriors by importance sampling         20 steps
============= ===========================================================================  ===========

The first three say that the parts are the model; the next that what is computed of the parts is right, from exact draws
(`exact_draws`), which need no second engine; agreement, that two engines come to the same on the data at hand.  A
check that does not suit a model says why, and a check that has found nothing says what it would have found.

What no check sees: whether the model is right for the data, priors that are not those that were meant, and faults that
the model as it was written has itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

import jax
import numpy as np

from ssmscan.arguments import require_flag, require_number
from ssmscan.certification import findings
from ssmscan.certification.calibration import REPLICATES
from ssmscan.certification.calibration import calibrate as calibrate_importance
from ssmscan.certification.certificate import Calibration, Certificate, Finding, Outcome
from ssmscan.certification.densities import compare_densities, compare_runs
from ssmscan.certification.exact_draws import Places, find_places
from ssmscan.certification.findings import ONE, QUANTILE, SHARE, skipped
from ssmscan.certification.forward_draws import compare_draws
from ssmscan.certification.kernels import GibbsCheck, NUTSCheck, Operand, PMMHCheck, no_gradients
from ssmscan.certification.likelihood import LikelihoodCheck, compare_positions
from ssmscan.certification.replicates import (
    FEW,
    Replicates,
    compare_before_and_after,
    find_scales,
    names_of_statistics,
    run_replicates,
)
from ssmscan.certification.short_series import ShortSeries, short_series
from ssmscan.errors import ModelError
from ssmscan.inference.cross_check import cross_check
from ssmscan.inference.interrupts import hold_interrupts, interruptible
from ssmscan.inference.progress import phase
from ssmscan.model.keys import one_key
from ssmscan.model.statespace.front import StateSpaceModel
from ssmscan.model.statespace.requirements import require_data
from ssmscan.results.checked import CrossCheck
from ssmscan.results.verdicts import Verdict

SHORT, SHORTEST = 20, 6
"""Steps of the series that is simulated, and of that which is run forward, where evidence is sharp."""

RUNS, COUNT = 10_000, 20_000
"""Forward runs, and replicates of each kernel at most."""

SHARES = {"likelihood": 0.15, "PMMH": 0.15, "Gibbs": 0.2, "NUTS": 0.15}
AGREEMENT, CALIBRATION = 0.35, 4.0
"""Parts of the seconds for each check by simulation and for agreement, and for calibration beside them."""

MORE_TIME = 3
"""Times that a cross-check is given more, as compilation has taken what it had."""


def certify(
    ssm: StateSpaceModel,
    *,
    key: jax.Array | None = None,
    seconds: float = 120.0,
    calibrate: bool = False,
    progress: bool = True,
) -> Certificate:
    """Test a model on this machine: its parts, the kernels that engines are made of, and whether two engines agree.

    Args:
        ssm: a model from `ssmscan.trace`.
        key: one PRNG key; the same one each time by default.
        seconds: for what is run; compilation is not counted, and reported.
        calibrate: whether to add simulation-based calibration of the importance sampler, for four times the seconds.
        progress: whether to show on a terminal what is under way.

    Returns:
        A `Certificate`, which is true as a condition where no check failed.  Stopped by Control-C, it holds the checks
        done by then.

    Raises:
        TypeError: it is not a traced model.
        ModelError: it observes nothing.
        ValueError: seconds is out of range, or the model does not know what it was traced from.
    """
    require_data(ssm)
    require_number("seconds", seconds, 0.0, np.inf)
    require_flag("calibrate", calibrate)
    require_flag("progress", progress)
    if ssm.source is None:
        raise ValueError("certify works on what ssmscan.trace returned, on the host, not inside jit or vmap.")
    run = Certification(one_key(jax.random.key(0) if key is None else key), ssm, float(seconds), progress)
    with hold_interrupts():
        try:
            run.all(() if calibrate else ("calibration",))
        except KeyboardInterrupt:
            run.interrupted = True
    return run.certificate()


class Simulated(NamedTuple):
    """What checks by simulation need.

    Attributes:
        short: the series that is simulated.
        places: how data enter it.
        operand: the model and scales of its coordinates; None where nothing can be simulated.
        reason: why nothing can, a clause.
        finite: share of the data sets that are finite.
    """

    short: ShortSeries
    places: Places
    operand: Operand | None
    reason: str
    finite: float

    @property
    def note(self) -> str:
        """What was simulated, a clause."""
        return self.short.note


class Certification:
    """A certification under way: what was found by now."""

    def __init__(self, key: jax.Array, ssm: StateSpaceModel, seconds: float, progress: bool):
        self.ssm, self.seconds, self.progress = ssm, seconds, progress
        self.key, self.began = key, time.perf_counter()
        self.findings: list[Finding] = []
        self.calibration: Calibration | None = None
        self.agreement: CrossCheck | None = None
        self.interrupted, self.description = False, "Nothing was simulated."

    def certificate(self) -> Certificate:
        """Return what was found."""
        took, found = time.perf_counter() - self.began, tuple(self.findings)
        return Certificate(found, self.description, self.calibration, self.agreement, took, self.interrupted)

    def all(self, without: Collection[str] = ()) -> None:
        """Make all checks but those that are named."""
        with phase("certify: a short series", progress=self.progress), interruptible():
            short, shortest = (short_series(self.over_arrays(), most) for most in (SHORT, SHORTEST))
        checks: dict[str, Callable[[], Finding]] = {
            "densities": lambda: self.densities(short),
            "evidence": lambda: self.evidence(shortest),
            "forward draws": lambda: self.draws(shortest),
        }
        self.make(checks, without)
        with phase("certify: exact draws", progress=self.progress), interruptible():
            simulated = self.simulated(short)
        checks = {
            "likelihood": lambda: self.likelihood(simulated),
            "PMMH": lambda: self.kernel("PMMH", simulated),
            "Gibbs": lambda: self.kernel("Gibbs", simulated),
            "NUTS": lambda: self.kernel("NUTS", simulated),
            "agreement": self.agree,
            "calibration": lambda: self.calibrate(simulated),
        }
        self.make(checks, without)

    def over_arrays(self) -> StateSpaceModel:
        """Return the model with arrays in the place of tables, where it takes them: data that can be simulated."""
        return self.ssm if self.ssm.source is None else self.ssm.source.over_arrays(self.ssm)[0]

    def make(self, checks: dict[str, Callable[[], Finding]], without: Collection[str]) -> None:
        """Make some checks; a model that one does not take is said, and no reason to stop."""
        for name, check in checks.items():
            if name in without or self.interrupted:
                continue
            try:
                self.findings.append(check())
            except ModelError as error:
                self.findings.append(skipped(name, str(error)))
            except Exception as error:
                # What one check cannot do is no reason to lose the others, and must be seen.
                self.findings.append(findings.broken(name, error))

    def key_of(self, name: str) -> jax.Array:
        """Return the key of a check, the same whatever other checks are made."""
        return jax.random.fold_in(self.key, int.from_bytes(name.encode()[:4], "big"))

    # ---- the parts ----------------------------------------------------------------------------

    def densities(self, short: ShortSeries) -> Finding:
        """Compare all factors with NumPyro's."""
        began, models = time.perf_counter(), [self.ssm, short.ssm, short.ssm]
        with phase("certify: densities", progress=self.progress), interruptible():
            found = compare_densities(list(jax.random.split(self.key_of("densities"), len(models))), models)
        return findings.of_densities(found, time.perf_counter() - began)

    def evidence(self, short: ShortSeries) -> Finding:
        """Compare the evidence with that of forward runs."""
        began = time.perf_counter()
        with phase("certify: evidence", progress=self.progress), interruptible():
            found = compare_runs(self.key_of("evidence"), short.ssm, RUNS, ONE, QUANTILE)
        return findings.of_evidence(found, short.note, time.perf_counter() - began)

    def draws(self, short: ShortSeries) -> Finding:
        """Compare states that are drawn forward in three ways."""
        began = time.perf_counter()
        with phase("certify: forward draws", progress=self.progress), interruptible():
            found = compare_draws(self.key_of("forward draws"), short.ssm, RUNS, SHARE)
        return findings.of_draws(found, short.note, RUNS, time.perf_counter() - began)

    # ---- from exact draws ------------------------------------------------------------------

    def simulated(self, short: ShortSeries) -> Simulated:
        """Prepare exact draws."""
        places = find_places(short.ssm)
        reason = places.reason or ("a parameter is discrete" if any(s.discrete for s in short.ssm.parameters) else "")
        if reason:
            self.description = f"Nothing was simulated: {reason}."
            return Simulated(short, places, None, reason, 0.0)
        scales, finite = find_scales(self.key_of("scales"), short.ssm, places)
        if finite < 0.5:
            reason = f"only {100 * finite:.0f} % of the data sets under the prior are finite"
            self.description = f"Nothing was simulated: {reason}."
            return Simulated(short, places, None, reason, finite)
        lost = f"; {100 * (1 - finite):.0f} % of the data sets are not finite and were left out" if finite < 1 else ""
        self.description = f"Simulated: {short.note}{lost}."
        return Simulated(short, places, Operand(short.ssm, scales), "", finite)

    def replicates(self, name: str, simulated: Simulated, check: Callable) -> Replicates:
        """Run replicates for the share of the time that a check has; those with finite data are returned."""
        share = SHARES[name] * self.seconds
        run = run_replicates(
            check,
            simulated.operand,
            self.key_of(name),
            COUNT,
            lambda: time.perf_counter() + share,
            label=f"certify: {name}",
            progress=self.progress,
        )
        self.interrupted = self.interrupted or run.interrupted
        return run.usable()

    def likelihood(self, simulated: Simulated) -> Finding:
        """Compare the estimates of a filter with one that contains the exact states."""
        if simulated.reason:
            return skipped("likelihood", f"Nothing can be simulated: {simulated.reason}.")
        run = self.replicates("likelihood", simulated, LikelihoodCheck(simulated.places))
        if run.number < FEW:
            return findings.too_few("likelihood", run)
        found = compare_positions(run.outputs["position"], run.outputs["logs"], SHARE, QUANTILE)
        return findings.of_likelihood(found, run, simulated.note)

    def kernel(self, name: str, simulated: Simulated) -> Finding:
        """Compare exact draws with what a kernel makes of them."""
        if simulated.reason:
            return skipped(name, f"Nothing can be simulated: {simulated.reason}.")
        ssm, places = simulated.short.ssm, simulated.places
        if name == "PMMH" and not ssm.parameters:
            return skipped(name, "There are no parameters.")
        if name == "NUTS" and (why := no_gradients(ssm)):
            return skipped(name, f"NUTS has no exact draws here: {why}.")
        checks: dict[str, Callable] = {"PMMH": PMMHCheck, "Gibbs": GibbsCheck, "NUTS": NUTSCheck}
        run = self.replicates(name, simulated, checks[name](places))
        if run.number < FEW:
            return findings.too_few(name, run)
        before, after = run.outputs["before"], run.outputs["after"]
        names = names_of_statistics(ssm, places, before.shape[1])
        found = compare_before_and_after(before, after, run.outputs["data"], names, SHARE, QUANTILE)
        return findings.of_kernel(name, found, run, simulated.note)

    # ---- engines ------------------------------------------------------------------------------

    def agree(self) -> Finding:
        """Let two engines sample the posterior; what compilation took of their time is given back."""
        if not self.ssm.parameters:
            return skipped("agreement", "There are no parameters that two engines could disagree about.")
        key, seconds, began = self.key_of("agreement"), max(AGREEMENT * self.seconds, 1.0), time.perf_counter()
        found, given = cross_check(key, self.ssm, seconds=seconds, progress=self.progress), seconds
        for _ in range(MORE_TIME):
            compiled = _compilation(found)
            missing = seconds if found.comparison is None else compiled - (given - seconds)
            out_of_time = found.verdict is Verdict.CANNOT_TELL and time.perf_counter() - began > 0.9 * given
            if not out_of_time or missing < 1.0:
                # Control-C ends an engine before its time.
                early = found.verdict is Verdict.CANNOT_TELL and not out_of_time
                self.interrupted |= early and any(result.interrupted for result in found.results.values())
                break
            found = cross_check(key, self.ssm, seconds=missing, start=found, progress=self.progress)
            given += missing
        compiled = max(_compilation(found), given - seconds)
        self.agreement = found
        return findings.of_agreement(found, max(time.perf_counter() - began - compiled, 0.0), compiled)

    def calibrate(self, simulated: Simulated) -> Finding:
        """Rank true parameters in their posteriors."""
        if simulated.reason or not simulated.short.ssm.parameters:
            return skipped("calibration", f"Nothing can be simulated: {simulated.reason or 'there are no parameters'}.")
        share = CALIBRATION * self.seconds
        found = calibrate_importance(
            self.key_of("calibration"),
            simulated.short.ssm,
            simulated.places,
            count=REPLICATES,
            error_rate=SHARE,
            deadline=lambda: time.perf_counter() + share,
            progress=self.progress,
        )
        self.calibration, self.interrupted = found.calibration, self.interrupted or found.interrupted
        if found.calibration is None:
            advice = "There was no time for 20 data sets."
            return Finding("calibration", Outcome.UNDECIDED, "Hardly tested.", advice=advice, seconds=found.seconds)
        times = found.seconds, found.compile_seconds
        return findings.of_calibration(found.calibration, simulated.note, found.left_out, *times)


def _compilation(found: CrossCheck) -> float:
    return sum(result.costs.compile_seconds for result in found.results.values())
