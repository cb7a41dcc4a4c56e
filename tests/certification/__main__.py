"""Certificates of six sound models, timed, and of models with planted faults, each of which must be objected to.

    python -m tests.certification [sound] [faults] [calibrated] [--seconds 120] [--keys 0]

`sound`: every check on each model; none may fail.  `faults`: on a small autoregression, without agreement; the check
that is named in `tests.certification.faults` must fail.  `calibrated`: a sound model with calibration, and the faults
that only calibration sees.
"""

from __future__ import annotations

import argparse
import sys
import time

import jax

import ssmscan
from ssmscan.certification.certificate import Certificate, Outcome
from ssmscan.certification.certify import Certification
from tests.certification.faults import FAULTS
from tests.certification.models import READINGS, SOUND, autoregression, traced


def certified(ssm: ssmscan.StateSpaceModel, seed: int, seconds: float, without: tuple[str, ...]) -> Certificate:
    """Return a certificate with some checks left out."""
    run = Certification(jax.random.key(seed), ssm, seconds, progress=False)
    run.all(without=without)
    return run.certificate()


def sound(seed: int, seconds: float) -> bool:
    """Certify the six models."""
    right = True
    for name in SOUND:
        certificate = ssmscan.certify(traced(name), key=jax.random.key(seed), seconds=seconds, progress=False)
        print(f"\n{name}\n{certificate}", flush=True)
        right &= certificate.passed
    return right


def faults(seed: int, seconds: float, calibrated: bool) -> bool:
    """Certify the autoregression with each fault; print which checks object."""
    right = True
    print(f"\n{'planted':42}{'must be seen by':20}{'failed':50}seconds")
    wanted = {n: f for n, f in FAULTS.items() if (f.seen_by == "calibration") == calibrated}
    none: dict = {"nothing": None}
    for name, fault in {**none, **wanted}.items():
        began = time.perf_counter()
        without = ("agreement",) if calibrated else ("agreement", "calibration")
        if fault is None:
            certificate = certified(ssmscan.trace(autoregression, READINGS), seed, seconds, without)
            seen = certificate.passed
        else:
            with fault.plant():
                certificate = certified(ssmscan.trace(autoregression, READINGS), seed, seconds, without)
            seen = fault.seen_by in certificate.failed
        objecting = {f.check: f.statistic / f.threshold for f in certificate.findings if f.outcome is Outcome.FAILED}
        found = ", ".join(f"{check} ({ratio:.1f}x)" for check, ratio in objecting.items()) or "none"
        said = fault.seen_by if fault else "-"
        print(
            f"{name:42}{said:20}{found:50}{time.perf_counter() - began:.0f}  {'' if seen else 'NOT SEEN'}", flush=True
        )
        right &= seen
    return right


def main() -> None:
    """Run what is asked for, and exit with 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["sound", "faults", "calibrated"])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--keys", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    ssmscan.use_cores()
    right = True
    for seed in options.keys:
        print(f"key {seed}, {options.seconds:g} s a certificate, compilation aside")
        if "sound" in options.parts:
            right &= sound(seed, options.seconds)
        if "faults" in options.parts:
            right &= faults(seed, options.seconds / 2, False)
        if "calibrated" in options.parts:
            right &= faults(seed, options.seconds / 2, True)
    print("\nall as it must be" if right else "\nNOT ALL AS IT MUST BE")
    sys.exit(not right)


if __name__ == "__main__":
    main()
