"""A script or command as a user meets it: what is wrong is said in one line, with an exit status that is not 0."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.optional import require

TRACEBACK = "RL_CROP_TRACEBACK"
"""The environment variable that asks for the traceback instead of the line."""


def command(main: Callable[[Any], Any], args: type, description: str, words: Sequence[str] | None = None) -> int:
    """
    Read a command line, and run a script with it.

    :param main: the script; where it returns an integer, that is the exit status
    :param args: the class of its arguments
    :param words: of the command line; those of this process by default
    :return: the exit status
    """
    return in_one_line(lambda: main(require("tyro", "scripts").cli(args, description=description, args=words)), "Error")


def in_one_line(run: Callable[[], Any], name: str) -> int:
    """
    :param run: what a user asked for; where it returns an integer, that is the exit status
    :param name: what an error begins with
    :return: the exit status: 1 where something went wrong, which has been written to the standard error in one line
    """
    try:
        found = run()
        return found if isinstance(found, int) else 0
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # what reads the output, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get(TRACEBACK):
            raise
        print(f"{name}: {_described(error)}", file=sys.stderr)
        return 1


def _described(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (PruningError, ImportError)):
        return text
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror.lower()}"
    if isinstance(error, MemoryError):
        return "there is not enough memory: ask for fewer environments, or a smaller network or buffer"
    return f"{type(error).__name__}: {text} ({TRACEBACK}=1 shows where)"
