"""What each check of a certificate came to, in words: a `Finding` of what was measured."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from ssmscan.certification.calibration import visible_shift
from ssmscan.certification.certificate import ERROR_RATE, POWER, Calibration, Finding, Outcome, z_threshold
from ssmscan.certification.densities import FACTORS, Densities, Runs
from ssmscan.certification.forward_draws import ForwardDraws
from ssmscan.certification.likelihood import Uniformity
from ssmscan.certification.replicates import FEW, Replicates, Shift
from ssmscan.inference.looks import MOST_LOOKS
from ssmscan.results.checked import CrossCheck, deciding, furthest
from ssmscan.results.criteria import DEFAULT
from ssmscan.results.table import significant
from ssmscan.results.uniformity import rarest
from ssmscan.results.verdicts import Verdict

COMPARED = 8
"""Checks that chance can fail; each has the same part of the error rate."""

SHARE = ERROR_RATE / COMPARED
QUANTILE = float(ndtri(POWER))
ONE = z_threshold(1, SHARE)


def of_densities(found: Densities, seconds: float) -> Finding:
    """Say whether all factors are NumPyro's."""
    advice = ""
    if found.share > 1.0:
        where = f"at site {quoted(found.sites)}" if found.sites else "at no single site"
        what = "; ".join(FACTORS[name] for name in found.factors)
        advice = (
            f"They differ {where}, in {what}. The model was not understood, or a part of it was changed after `trace`. "
            "Run ssm.check(key) for the numbers, and report them with the model."
        )
    return Finding(
        "densities",
        Outcome.PASSED if found.share <= 1.0 else Outcome.FAILED,
        "What engines evaluate, put together again, against NumPyro's log-density of every site at three draws.",
        found.share,
        1.0,
        f"of rounding, {found.compared} numbers",
        f"{significant(found.tolerance)} nats in any of them",
        advice,
        compile_seconds=seconds,
    )


def of_evidence(found: Runs, note: str, seconds: float) -> Finding:
    """Say whether the evidence is that of forward runs."""
    outcome = Outcome.PASSED if abs(found.z) <= ONE else Outcome.FAILED
    outcome = outcome if found.effective else Outcome.UNDECIDED
    raised = "" if found.power == 1.0 else f", raised to the power {significant(found.power)},"
    advice = {
        Outcome.FAILED: "States are not drawn as the model says: look at initial states, at the roles that print(ssm) "
        "shows, and at its column 'noise', then report it with the model.",
        Outcome.UNDECIDED: "No run has a density under draws of the prior.",
    }.get(outcome, "")
    return Finding(
        "evidence",
        outcome,
        f"The weights of {found.num_runs:,} runs of the parts by noise{raised} against those of as many forward runs "
        f"of NumPyro, {note}.",
        abs(found.z),
        ONE,
        "|z|",
        f"{significant(found.visible)} nats in the log-likelihood" if found.effective else "",
        advice,
        compile_seconds=seconds,
    )


def of_draws(found: ForwardDraws, note: str, num_runs: int, seconds: float) -> Finding:
    """Say whether states are drawn as NumPyro draws them."""
    passed = abs(found.z) <= found.threshold
    advice = (
        f"Site '{found.site}' is not drawn as the model says: furthest off is the {found.name}, z = {found.z:.1f}. "
        "Look at its row of print(ssm), role and noise, and report it with the model."
    )
    return Finding(
        "forward draws",
        Outcome.PASSED if passed else Outcome.FAILED,
        f"States drawn by {' and by '.join(found.ways)} against forward runs of NumPyro, {num_runs:,} of each at three "
        f"draws of the parameters, {note}.",
        abs(found.z),
        found.threshold,
        f"|z| of {found.compared} means",
        f"a shift of {significant(found.visible)} sd of a state",
        "" if passed else advice,
        compile_seconds=seconds,
    )


def of_likelihood(found: Uniformity, run: Replicates, note: str) -> Finding:
    """Say whether estimates of a filter are like that of one which contains the exact states."""
    advice = (
        "The estimate of the likelihood is biased, or states are not drawn as the model says: then PMMH, importance "
        "sampling and SMC2 are wrong too. Look at the rows above first, and report it with the model."
    )
    return Finding(
        "likelihood",
        Outcome.PASSED if found.passed else Outcome.FAILED,
        f"Estimates of a particle filter against that of another one which contains the exact states, {note}, "
        f"{run.number} data sets.",
        found.z,
        found.threshold,
        "|z| of mean and spread",
        f"{significant(found.visible)} nats in the log-likelihood",
        "" if found.passed else advice,
        run.seconds,
        run.compile_seconds,
    )


def of_kernel(name: str, found: Shift, run: Replicates, note: str) -> Finding:
    """Say whether a kernel leaves exact draws exact."""
    tested = f"Exact draws before and after steps of its kernel, {note}, {run.number} draws."
    if not found.compared:
        advice = "The kernel never moved: its steps are too long for this model, or its density is nowhere finite."
        return _undecided(name, tested, advice, run.seconds, run.compile_seconds)
    advice = (
        f"Its law is not the posterior: furthest off is {found.name}, z = {found.z:.1f}. Look at the rows above first; "
        f"if they pass, {name} itself is wrong on this model: report it."
    )
    return Finding(
        name,
        Outcome.PASSED if found.passed else Outcome.FAILED,
        tested,
        abs(found.z),
        found.threshold,
        f"|z| of {found.compared} means",
        f"a shift of {significant(found.visible)} posterior sd",
        "" if found.passed else advice,
        run.seconds,
        run.compile_seconds,
    )


def of_agreement(found: CrossCheck, seconds: float, compile_seconds: float) -> Finding:
    """Say what a cross-check came to; a certificate fails it only at its own error rate."""
    said = " ".join(found.sentences)
    tested = f"{found.title}."
    if found.comparison is None:
        return _undecided("agreement", tested, said, seconds, compile_seconds)
    pair = deciding(found.comparison)
    clearest = min(difference.p_value for difference in pair.differences)
    clear = clearest * len(pair.differences) * MOST_LOOKS < SHARE
    outcome = {
        Verdict.AGREE: Outcome.PASSED,
        Verdict.DISAGREE: Outcome.FAILED if clear else Outcome.UNDECIDED,
        Verdict.CANNOT_TELL: Outcome.UNDECIDED,
    }[found.verdict]
    advice = "" if outcome is Outcome.PASSED else said
    known = tuple(d for d in pair.differences if np.isfinite(d.low) and np.isfinite(d.high))
    if not known:
        return _undecided("agreement", tested, said, seconds, compile_seconds)._replace(outcome=outcome, advice=advice)
    worst = furthest(pair._replace(differences=known), DEFAULT.tolerances)
    return Finding(
        "agreement",
        outcome,
        tested,
        max(-worst.low, worst.high),
        DEFAULT.tolerances.of(worst.statistic),
        f"furthest end of {len(known)} intervals",
        f"{significant(max(d.high - d.low for d in known) / 2)} sd in any of them",
        advice,
        seconds,
        compile_seconds,
    )


def of_calibration(found: Calibration, note: str, left_out: int, seconds: float, compile_seconds: float) -> Finding:
    """Say whether true parameters lie in their posteriors as they should."""
    count, quantities = found.positions.shape
    outside = found.outside
    advice = (
        f"The posterior is not calibrated: {quoted(outside)}. True values are too often in one part of it; "
        "certificate.calibration holds the distribution functions and bands. Look at the rows above first."
    )
    lost = f"; {left_out} more had no finite data" if left_out else ""
    return Finding(
        "calibration",
        Outcome.FAILED if outside else Outcome.PASSED,
        f"True parameters among the points of importance sampling on data that they made, {note}, {count} data sets "
        f"with {np.median(found.effective):.0f} effective points in the median{lost}.",
        -np.log10(max(rarest(found.differences, count), 1e-300)),
        -np.log10(found.bands.gamma),
        f"-log10 level of {quantities} functions",
        f"a shift of {significant(visible_shift(count, 1.0 - SHARE / quantities))} posterior sd",
        advice if outside else "",
        seconds,
        compile_seconds,
    )


def skipped(name: str, why: str) -> Finding:
    """Say that a check does not apply."""
    return Finding(name, Outcome.SKIPPED, "Not tested.", advice=why)


def broken(name: str, error: Exception) -> Finding:
    """Say that a check ended with an error."""
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    advice = f"The check ended with an error, which is a fault of ssmscan: {reason}. Please report it with the model."
    return Finding(name, Outcome.UNDECIDED, "Not tested.", advice=advice)


def too_few(name: str, run: Replicates) -> Finding:
    """Say that there was no time."""
    advice = f"There was time for {run.number} replicates, and {FEW} are the fewest that say something: more seconds."
    return _undecided(name, "Hardly tested.", advice, run.seconds, run.compile_seconds)


def _undecided(name: str, tested: str, advice: str, seconds: float, compile_seconds: float) -> Finding:
    return Finding(name, Outcome.UNDECIDED, tested, advice=advice, seconds=seconds, compile_seconds=compile_seconds)


def quoted(names: tuple[str, ...]) -> str:
    """Return names in quotes."""
    return ", ".join(f"'{name}'" for name in names)
