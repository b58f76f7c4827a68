"""A coordinator as a child of this process: what the demo, the benches and the testbed start first."""

from __future__ import annotations

from pathlib import Path

from wanspec_p2p.cli.processes import Child, Fleet, wanspec_command

__all__ = ["start_coordinator"]


async def start_coordinator(
    fleet: Fleet, data_dir: Path, seconds: float, *, name: str = "coordinator", port: int = 0
) -> tuple[Child, str]:
    """Start one on loopback and wait until it serves; it ends with the fleet, or with this process.

    Args:
        seconds: it may take until it is ready.
        name: its log's.
        port: 0: the system chooses.

    Returns:
        The child, and its address.

    Raises:
        ChildDied: it ended instead.
        WanspecError: it was not ready in time.
    """
    where = ("--port", str(port), "--data-dir", str(data_dir))
    child = await fleet.start(name, wanspec_command("coordinator", "run", *where, "--json", "--with-parent"))
    return child, str((await child.ready(seconds))["url"])
