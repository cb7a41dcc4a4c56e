"""Control-C, pressed at a chosen moment of a run, and compilations counted."""

import signal
from contextlib import contextmanager

import jax

from ssmscan.inference import interrupts, progress


@contextmanager
def control_c_at(monkeypatch, label, *, update=3, presses=1):
    """Press Control-C at an update of the bar with this label, or where it appears if it counts nothing.

    Further presses follow whenever the run can be interrupted again.
    """
    pressed = []

    class Pressing(progress.tqdm):
        def __init__(self, **settings):
            super().__init__(**settings)
            self.watched, self.updates = settings["desc"] == label, 0
            if self.watched and not settings.get("total") and not pressed:
                press()

        def update(self, n=1):
            self.updates += 1
            if self.watched and self.updates == update and not pressed:
                press()
            return super().update(n)

    class Region(interrupts._Region):
        def __enter__(self):
            if 0 < len(pressed) < presses:
                press()
            return super().__enter__()

    def press():
        pressed.append(label)
        signal.raise_signal(signal.SIGINT)

    region = Region()
    with monkeypatch.context() as patch:
        patch.setattr(progress, "tqdm", Pressing)
        patch.setattr(interrupts, "_REGION", region)
        yield
    assert len(pressed) == presses


@contextmanager
def count_compilations():
    """Collect the names of what is compiled meanwhile."""
    found = []

    def listen(event, *_, fun_name="", **__):
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
