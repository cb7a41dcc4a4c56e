"""What is raised where a model is not what the package can run.

To add a refusal: raise `ModelError` in the room that first knows the reason (a site in `model/handlers`, a shape or a
loop in `model/staging/discovery`, a role in `model/staging/roles`, what all engines need in
`model/statespace/requirements`, what some need in `inference/settings`), and add an example with its whole message to
`docs/refusals.md`.  `tests/model/test_refusals.py` runs the examples, and fails where a `ModelError` of the package is
not among them.  A bad argument is not a bad model: that is a `TypeError` or `ValueError`, see `ssmscan.arguments`.
"""


class ModelError(ValueError):
    """The model cannot be taken apart, or not be run by an engine; the message names the site and the way out."""
