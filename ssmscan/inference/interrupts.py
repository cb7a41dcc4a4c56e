"""Control-C during a run: raised where the run can take it, kept back where draws would be lost.

A run spends nearly all its time in a few calls that can stop between two chunks or before a compilation.  Everything
else, such as joining the draws and making the `Result`, takes milliseconds, and a `KeyboardInterrupt` there (the second
of an impatient user, say) would throw the draws away.  So an engine holds interrupts back for the whole of its `run`
and opens them in regions:

    with hold_interrupts():
        try:
            with interruptible():
                ...                      # the long part: Control-C is raised here
        except KeyboardInterrupt:
            ...                          # keep what there is; no second one is raised here
        ...                              # one that came meanwhile is raised by the next region, when it is entered

A short block by itself can be held as well.  Outside the main thread, and under a handler of the user's own, nothing
is held and Python's own rules apply.
"""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class _Region:
    """Where interrupts are raised; one for the process, since signals are."""

    def __init__(self) -> None:
        self.holding = self.open = self.pending = self.raised = False
        self.deaf = self.out_of_time = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        """Raise in the region, which is left by that; keep it for the next region elsewhere."""
        if self.deaf and not self.out_of_time:
            return
        if not self.open:
            self.pending = True
            return
        self.open, self.raised = False, True
        raise KeyboardInterrupt

    def raise_lost(self) -> None:
        """Raise again what was raised where Python lets no exception out, such as a callback of a weak reference."""
        if self.raised:
            raise KeyboardInterrupt

    def __enter__(self) -> _Region:
        self.open, self.raised = True, False
        if self.pending:
            self.open = self.pending = False
            raise KeyboardInterrupt
        return self

    def __exit__(self, kind: type | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        self.open = False
        if kind is None:
            self.raise_lost()


_REGION = _Region()


def interruptible() -> _Region:
    """Return the region in which Control-C is raised, for a `with`; raise one that was kept back.  Do not nest.

    One that is raised while Python collects garbage is lost there, and raised again at the end of the region.
    """
    return _REGION


def keep_interrupt() -> None:
    """Keep an interrupt that came too late for the region it was raised in: the next region raises it."""
    _REGION.pending = _REGION.holding


@contextmanager
def hold_interrupts() -> Iterator[None]:
    """Keep Control-C back outside `interruptible` regions; one still kept at the end is dropped."""
    in_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not in_main or _REGION.holding or before not in (signal.default_int_handler, signal.SIG_IGN):
        yield
        return
    _REGION.holding, _REGION.open, _REGION.pending = True, False, False
    # A job in the background of a shell ignores Control-C; a time limit it must keep all the same.
    _REGION.deaf, _REGION.out_of_time = before is signal.SIG_IGN, False
    signal.signal(signal.SIGINT, _REGION.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _REGION.holding = _REGION.pending = False


@contextmanager
def interrupt_after(seconds: float) -> Iterator[threading.Event]:
    """Do after some seconds what Control-C does, if the block is not over by then; yields what says whether it did.

    Only where interrupts are held: elsewhere it would be a stranger's handler that hears of it, and nothing is done.
    """
    happened, over, lock = threading.Event(), threading.Event(), threading.Lock()

    def press() -> None:
        with lock:
            if not over.is_set():
                happened.set()
                _REGION.out_of_time = True
                _thread.interrupt_main()

    timer = threading.Timer(max(seconds, 0.0), press)
    timer.daemon = True
    if _REGION.holding and threading.current_thread() is threading.main_thread():
        timer.start()
    try:
        yield happened
    finally:
        with lock:
            over.set()
        timer.cancel()
