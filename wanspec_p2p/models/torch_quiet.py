"""transformers neither writes to the user's screen nor draws bars: progress and errors are ours to tell."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["quiet_transformers"]


@functools.cache
def quiet_transformers() -> None:
    from transformers.utils import logging

    untyped: Any = logging
    untyped.set_verbosity_error()
    untyped.disable_progress_bar()
