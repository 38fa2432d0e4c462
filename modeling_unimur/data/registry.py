"""Sources that other packages bring: each has a name here, or is given by its address `package.module:function`."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from typing import Any

_ADDRESS = re.compile(r"([A-Za-z_]\w*)(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

# Retrieval sets: functions without arguments that return a `RetrievalSet`.
SETS = {
    "gimp_manual": "unimur_mini.gimp_manual:gimp_manual",
}


def is_address(source: str) -> bool:
    """Whether a source is written `package.module:function`, and is no file."""
    return _ADDRESS.fullmatch(source) is not None and not os.path.exists(source)


def load_function(address: str) -> Callable[..., Any]:
    """The function `package.module:function`. Its module is imported, so the address must come from a trusted recipe.

    Raises:
        ImportError: the package is not installed; the message says how to install it.
        ValueError: there is no such module or function in it.
    """
    module, _, name = address.partition(":")
    package = module.partition(".")[0]
    if importlib.util.find_spec(package) is None:
        remedy = "pip install unimur" if package == "unimur_mini" else f"install {package}"
        raise ImportError(f"{address} needs the package {package}, which is not installed: {remedy}.")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):
            raise  # a library that the module needs
        raise ValueError(f"{address}: there is no module {module}.") from error
    if not callable(getattr(found, name, None)):
        raise ValueError(f"{address}: the module {module} has no function {name}.")
    return getattr(found, name)


def find_loader(source: str, known: dict[str, str]) -> Callable[..., Any] | None:
    """What loads a source out of a table of names, or one that is given by its address; None for any other text.

    Raises:
        ImportError, ValueError: as `load_function`.
    """
    address = known.get(source, source if is_address(source) else None)
    return None if address is None else load_function(address)


__all__ = ["SETS", "find_loader", "is_address", "load_function"]
