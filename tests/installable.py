"""Real data that installs from packages, in tests."""

import shutil
from collections.abc import Callable

import pytest

from modeling_unimur.data.cache import PackageUnavailable


def loaded_or_skipped(load: Callable, *args):
    """What `load` returns; without apt-get the test is skipped, with it a package that cannot be had is a failure."""
    try:
        return load(*args)
    except PackageUnavailable as error:
        if shutil.which("apt-get"):
            raise
        pytest.skip(str(error))
