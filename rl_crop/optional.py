"""Optional dependencies, imported where they are used."""

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """
    Import an optional dependency.

    :param module: the module to import, for example ``"yaml"``
    :param extra: the extra of ``rl-crop`` that installs it
    :return: the module
    :raises ImportError: when it is missing; the message names the extra
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This needs `{module}`, which comes with the extra {extra!r}: pip install -e '.[{extra}]' in a checkout, "
            f"or name the extra behind the wheel, './rl_crop-….whl[{extra}]'."
        ) from error
