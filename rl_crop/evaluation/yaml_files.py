"""YAML as users write it: what cannot be read, or says a thing twice, is named."""

from pathlib import Path
from typing import Any

from rl_crop.core.errors import PruningError
from rl_crop.optional import require


class ConfigError(PruningError):
    """A configuration that cannot be run; the message names the key."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """
    Read a YAML file that holds a mapping.

    :param path: the file
    :return: its content
    :raises ConfigError: when it is no valid YAML or no mapping
    """
    try:
        data = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({(error.strerror or str(error)).lower()})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no text in UTF-8: save it as such") from None
    except ConfigError as error:
        raise ConfigError(f"{path} is {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} does not hold a mapping from keys to values")
    return data


def parse_yaml(text: str) -> Any:
    """
    :param text: YAML
    :return: its content
    :raises ConfigError: it is no valid YAML, or names a key twice, of which one would be ignored
    """
    yaml = require("yaml", "scripts")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key.value, str) and key.value != "<<"]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise ConfigError(f"no valid YAML: the key `{twice}` stands there twice")
            return dict(super().construct_mapping(node, deep))

    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"no valid YAML: {' '.join(str(error).split())}") from None
