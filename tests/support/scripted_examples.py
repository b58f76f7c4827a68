"""The `wanspec` of a reader in a test: every model that a target or a node names is a scripted one, already fetched.

`python -m tests.support.scripted_examples ARGS` is `wanspec ARGS`. Weights, and nothing else, are not real.
"""

from __future__ import annotations

import sys
from typing import Any

from tests.support import scripted_services

__all__ = ["main"]


def main() -> int:
    """The exit code."""
    import wanspec_p2p.cli.node
    import wanspec_p2p.cli.target

    modules: tuple[Any, ...] = (wanspec_p2p.cli.node, wanspec_p2p.cli.target)
    for module in modules:
        assert hasattr(module, "prepare_model"), f"{module.__name__} fetches its model in another way now"
        module.prepare_model = lambda name, cache, *, bars: None
    return scripted_services.main()


if __name__ == "__main__":
    sys.exit(main())
