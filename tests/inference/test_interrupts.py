"""Control-C is raised where a run can take it, and kept back elsewhere."""

import signal
import threading
import weakref

import pytest

from ssmscan.inference.interrupts import hold_interrupts, interruptible


def press():
    signal.raise_signal(signal.SIGINT)


def test_it_is_raised_in_a_region_and_kept_back_between_regions():
    reached = []
    with hold_interrupts():
        with pytest.raises(KeyboardInterrupt), interruptible():
            press()
            reached.append("never")
        press()
        press()
        reached.append("between")
        with pytest.raises(KeyboardInterrupt), interruptible():
            reached.append("never")
        with interruptible():
            reached.append("two between are one")
        press()
    assert reached == ["between", "two between are one"]


def test_one_that_python_swallows_is_raised_at_the_end_or_when_asked_for(monkeypatch):
    """A callback of a weak reference lets no exception out."""

    class Collected:
        pass

    def lost():
        collected = Collected()
        references.append(weakref.ref(collected, lambda _: press()))

    references, swallowed, reached = [], [], []
    monkeypatch.setattr("sys.unraisablehook", lambda unraisable: swallowed.append(unraisable.exc_type))
    with hold_interrupts():
        with pytest.raises(KeyboardInterrupt), interruptible():
            lost()
            reached.append("end")
        with pytest.raises(KeyboardInterrupt), interruptible() as region:
            region.raise_lost()
            lost()
            reached.append("asked")
            region.raise_lost()
            reached.append("never")
        with interruptible():
            reached.append("once")
    assert swallowed == [KeyboardInterrupt] * 2 and reached == ["end", "asked", "once"]


def test_pythons_own_rules_return_at_the_end_and_hold_in_other_threads():
    with pytest.raises(RuntimeError), hold_interrupts():
        raise RuntimeError
    with pytest.raises(KeyboardInterrupt):
        press()
    handlers = []

    def other():
        with hold_interrupts(), interruptible():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert handlers == [signal.default_int_handler]


def test_a_handler_of_the_users_own_stays():
    pressed = []
    signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        with hold_interrupts():
            press()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert pressed == [1]


def test_a_hold_inside_another_ends_with_the_outer_one():
    with hold_interrupts():
        with hold_interrupts():
            press()
        press()
        with pytest.raises(KeyboardInterrupt), interruptible():
            pass
