"""What is raised where a model is not what the package can run."""


class ModelError(ValueError):
    """The model cannot be taken apart, or not be run by an engine; the message names the site and the way out."""
