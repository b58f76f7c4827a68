"""What the `wanspec` script calls: Ctrl-C while the modules are still being loaded is an end like any other."""

from __future__ import annotations

__all__ = ["main"]


def main() -> int:
    try:
        from wanspec_p2p.cli.main import main as run
    except KeyboardInterrupt:
        return 130  # ExitCode.INTERRUPTED; its module may not have been loaded yet
    return run()
