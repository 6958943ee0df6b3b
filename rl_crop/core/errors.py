"""The one exception type that the package raises on purpose."""


class PruningError(ValueError):
    """
    Raised when pruning cannot be done as asked; the message says what was wrong and what to do.

    Whatever raises it has left the model, its optimizers and its targets bit for bit as they were.
    """
