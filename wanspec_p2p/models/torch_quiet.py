"""transformers neither writes to the user's screen nor draws bars: progress and errors are ours to tell."""

from __future__ import annotations

import functools

__all__ = ["quiet_transformers"]


@functools.cache
def quiet_transformers() -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
