"""YAML as recipes are written: `1e-3` is a number, as in YAML 1.2; PyYAML alone reads it as text."""

import re
from typing import Any

try:
    import yaml
except ImportError as error:
    raise ImportError("Recipes are YAML: `pip install unimur[train]`.") from error


class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(text: str) -> Any:
    """What a text of YAML holds.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error


__all__ = ["read_yaml"]
