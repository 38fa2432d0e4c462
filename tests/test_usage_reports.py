"""Optional packages do not report how they are used."""

import importlib
import os
import sys

import pytest

from modeling_unimur.cli.app import SPACE


class _Started(Exception):
    pass


def _ray_engine():
    importlib.import_module("modeling_unimur.encoding.ray_engine")


def _space():
    exec(compile(SPACE.read_text(encoding="utf-8"), SPACE, "exec"), {"__file__": str(SPACE)})


@pytest.mark.parametrize(
    ("package", "variable", "value", "load"),
    [
        ("ray", "RAY_USAGE_STATS_ENABLED", "0", _ray_engine),
        ("gradio", "GRADIO_ANALYTICS_ENABLED", "False", _space),
    ],
)
@pytest.mark.parametrize("chosen", [None, "1"])
def test_reports_are_off_before_the_package_is_imported(monkeypatch, package, variable, value, load, chosen):
    """Whoever wants them says so by the package's own variable."""
    seen = []

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == package:
                seen.append(os.environ.get(variable))
                raise _Started

    monkeypatch.setenv(variable, chosen or "")
    if chosen is None:
        monkeypatch.delenv(variable)
    for name in [name for name in sys.modules if name == package or name.endswith("encoding.ray_engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder, *sys.meta_path])
    with pytest.raises(_Started):
        load()
    assert seen == [chosen or value]
