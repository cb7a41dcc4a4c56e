"""What several samplers say against their runs, in the same words."""

from __future__ import annotations

from ssmscan.health import Condition, Reason, Section


def not_numbers(which: str, example: str) -> Reason:
    """Return what to say of filters in which log weights of particles were not numbers.

    Args:
        which: such as "3 of 100 points have".
        example: what one of these filters says itself, empty if none is there to be run again.
    """
    return Reason(
        f"{which} filters in which log weights of particles were not numbers and counted as impossible, so that the "
        "likelihood of these parameters is too low.",
        f"Mend the density of the model. {example}".rstrip(),
        Section.NOT_NUMBERS,
        Condition.UNUSABLE,
    )


def few_runs(number: int, least: int) -> Reason:
    """Return what to say of fewer independent runs than errors can be computed from."""
    return Reason(
        f"The spread between {number} run{'s' * (number != 1)}, from which the errors and R-hat are computed, is "
        "hardly known.",
        f"Make at least {least} runs, num_runs.",
        Section.FEW_RUNS,
    )


def stopped(what: str) -> Reason:
    """Return that a run was stopped, and what there is of it."""
    sentence = f"The run was stopped before its end: these are the {what} made by then."
    return Reason(sentence, "Run it again and let it go on longer.", Section.STOPPED)
