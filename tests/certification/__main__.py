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

CHECKS = ("densities", "evidence", "forward draws", "likelihood", "PMMH", "Gibbs", "NUTS", "calibration")


def certified(ssm: ssmscan.StateSpaceModel, seed: int, seconds: float, without: tuple[str, ...]) -> Certificate:
    """Return a certificate with some checks left out."""
    run = Certification(jax.random.key(seed), ssm, seconds, progress=False)
    run.all(without=without)
    return run.certificate()


def sound(seed: int, seconds: float, models: list[str]) -> bool:
    """Certify the six models."""
    right = True
    for name in models:
        certificate = ssmscan.certify(traced(name), key=jax.random.key(seed), seconds=seconds, progress=False)
        print(f"\n{name}\n{certificate}", flush=True)
        right &= certificate.passed
    return right


def faults(seed: int, seconds: float, calibrated: bool, *, every: bool) -> bool:
    """Certify the autoregression with each fault; print which checks object.

    The findings of a check do not depend on which others are made: only densities and the one that must see it are,
    unless `every` says so.
    """
    right = True
    print(f"\n{'planted':42}{'must be seen by':17}{'made':28}{'failed (statistic / threshold)':62}seconds")
    cases = {n: f for n, f in FAULTS.items() if (f.seen_by == "calibration") == calibrated}
    for name, fault in cases.items():
        wanted = CHECKS if every else ("densities", fault.seen_by)
        without = tuple({*CHECKS, "agreement"} - {*wanted})
        began = time.perf_counter()
        with fault.plant():
            certificate = certified(ssmscan.trace(autoregression, READINGS), seed, seconds, without)
        seen = fault.seen_by in certificate.failed
        objecting = {f.check: f.statistic / f.threshold for f in certificate.findings if f.outcome is Outcome.FAILED}
        found = ", ".join(f"{check} ({ratio:.1f})" for check, ratio in objecting.items()) or "none"
        took = f"{time.perf_counter() - began:.0f}"
        made = ", ".join(f.check for f in certificate.findings)
        print(f"{name:42}{fault.seen_by:17}{made:28}{found:62}{took}{'' if seen else '  NOT SEEN'}", flush=True)
        right &= seen
    return right


def without_fault(seed: int, seconds: float) -> bool:
    """Certify the autoregression as it is."""
    certificate = certified(ssmscan.trace(autoregression, READINGS), seed, seconds, ("agreement",))
    print(f"\nwithout a fault\n{certificate}", flush=True)
    return certificate.passed


def main() -> None:
    """Run what is asked for, and exit with 1 if something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=["sound", "faults", "calibrated"])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--models", nargs="+", default=list(SOUND), help="of the sound ones")
    parser.add_argument("--every", action="store_true", help="make every check of a model with a fault")
    parser.add_argument("--keys", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    ssmscan.use_cores()
    right = True
    for seed in options.keys:
        print(f"key {seed}, {options.seconds:g} s a certificate, compilation aside")
        if "sound" in options.parts:
            right &= sound(seed, options.seconds, options.models)
        if "faults" in options.parts:
            right &= faults(seed, options.seconds, False, every=options.every)
        if "calibrated" in options.parts:
            right &= without_fault(seed, options.seconds) & faults(seed, options.seconds, True, every=options.every)
    print("\nall as it must be" if right else "\nNOT ALL AS IT MUST BE")
    sys.exit(not right)


if __name__ == "__main__":
    main()
