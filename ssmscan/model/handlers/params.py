"""What a model asks of NumPyro that is no site: optimisable parameters, and keys.

`numpyro.param` outside the loop is a constant: the value that `handlers.substitute` gives it, else its initial
value.  Where that is a function of a key, the key is fixed, so that it is the same constant in every run.
`numpyro.prng_key()` returns a fixed key; `staging.hidden_noise` proves that no density depends on it.

Under a `handlers.seed` of the user that key is used; what is drawn with it is a constant of the user's choice.
"""

from __future__ import annotations

import jax
from numpyro import handlers
from numpyro.primitives import Messenger


class Constants(Messenger):
    """Hold every `numpyro.param` at its initial value and answer `numpyro.prng_key()`; one for each run.

    Attributes:
        requests: how many keys were asked for.
    """

    def __init__(self, fn=None, key: jax.Array | None = None):
        self.key, self.requests, self.initialised = key, 0, 0
        super().__init__(fn)

    def process_message(self, msg: dict) -> None:
        """Give what is asked for its value, unless a handler has given one."""
        if msg.get("value") is not None:
            return
        if msg["type"] == "param":
            initial = handlers.seed(msg["fn"], rng_seed=self.initialised)
            msg["value"], self.initialised = initial(*msg["args"], **msg["kwargs"]), self.initialised + 1
        elif msg["type"] == "prng_key" and msg["kwargs"].get("rng_key") is None:
            key = jax.random.key(0) if self.key is None else self.key
            msg["value"], self.requests = jax.random.fold_in(key, self.requests), self.requests + 1
