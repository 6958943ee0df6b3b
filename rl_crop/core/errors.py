"""The exceptions that the package raises on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch as th


class PruningError(ValueError):
    """
    Raised when pruning cannot be done as asked; the message says what was wrong and what to do.

    Whatever raises it has left the model, its optimizers and its targets bit for bit as they were.
    """


class UndoError(RuntimeError):
    """Raised where a change has failed and could not be undone either: what was to be pruned may be damaged."""


_NO_MEMORY = ("out of memory", "allocate memory", "not enough memory", "alloc_failed")
"""How torch's allocators say it, on a CPU in a plain RuntimeError."""


def lacks_memory(error: BaseException | None) -> bool:
    """:return: whether an error, or one that it was raised for, tells of too little memory: it answers no other question."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        told = isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _NO_MEMORY)
        if told or isinstance(error, (MemoryError, th.cuda.OutOfMemoryError)):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def explained(what: str, remedy: str = "nothing was changed") -> Iterator[None]:
    """
    Whatever else goes wrong in a block becomes a :class:`PruningError`, with the error as its cause.

    :param what: failed.
    :param remedy: what is to be known of it.
    """
    try:
        yield
    except (PruningError, UndoError):
        raise
    except Exception as error:
        if lacks_memory(error):
            remedy += ". Fewer or smaller scoring batches (n_batches, batch_size) need less memory"
        raise PruningError(f"{what} ({type(error).__name__}: {error}); {remedy}.") from error
