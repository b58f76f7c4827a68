"""Fixtures every room may use."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from wanspec_p2p.config import Paths
from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.catalog import Catalog


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """The user's model cache, with the embedded models in it: made once on a machine, then only checked."""
    cache = Paths.from_environment(os.environ).cache
    catalog = Catalog(cache)
    try:
        for name in ("smollm2-135m", "smollm2-draft"):
            catalog.path(name)
    except ModelError as error:
        pytest.skip(f"the embedded model cannot be had here: {error}")
    return cache


@pytest.fixture(autouse=True)
def fresh_logging() -> Iterator[None]:
    """A test that sets up logging does so for itself: its standard error is gone afterwards."""
    hooks = sys.unraisablehook, threading.excepthook
    yield
    structlog.reset_defaults()
    sys.unraisablehook, threading.excepthook = hooks


def pytest_configure() -> None:
    """A shell without job control has what it starts in the background ignore Ctrl-C, and so would all processes that
    the tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those with real processes take longest, so they come first: then processes that share the tests end together."""
    items.sort(key=lambda item: item.get_closest_marker("system") is None)
