"""What is raised where a model is not what the package can run.

To add a refusal: raise `ModelError` in the room that first knows the reason (a site in `model/handlers`, a shape or a
loop in `model/staging/discovery`, a role in `model/staging/roles`, what engines need in `model/statespace`), and enter
an example with its whole message in `docs/refusals.md`.  `tests/model/test_refusals.py` runs the examples, and fails
where a `ModelError` of the package is not among them.
"""


class ModelError(ValueError):
    """The model cannot be taken apart, or not be run by an engine; the message names the site and the way out."""
