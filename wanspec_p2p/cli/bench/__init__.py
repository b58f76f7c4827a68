"""`wanspec bench`: every figure of the documentation, printed by a command."""

from wanspec_p2p.cli.bench.commands import app

__all__ = ["app"]
