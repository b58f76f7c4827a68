"""Clients that one target serves, by distance, beside what it serves drafting for itself and plainly."""

from __future__ import annotations

from typing import Any

from wanspec_p2p.simulation.pictures import pictures
from wanspec_p2p.words import counted

__all__ = ["draw"]


def draw(report: dict[str, Any]) -> dict[str, bytes]:
    """The figure as "svg" and "png". Needs matplotlib.

    Args:
        report: of `wanspec sim capacity --json`.
    """
    rtt = report["rtt_ms"]

    def plot(plt: Any) -> Any:
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        for color, (drafters, clients) in enumerate(report["clients"].items()):
            axes.plot(rtt, clients, "-", color=f"C{color}", marker=".", label=_remote(drafters))
        for color, (baseline, found) in enumerate(report["against"].items(), start=len(report["clients"])):
            what = f"{baseline} at the target, {counted(found['passes'], 'pass', 'passes')}"
            axes.axhline(found["clients"], color=f"C{color}", linestyle="--", label=what)
            expected = found["clients"] * found["closed_form"]
            axes.axhline(expected, color=f"C{color}", linestyle=":", label=f"closed form over that {baseline}")
        axes.axhline(report["plain"], color="black", linewidth=0.8, label="plain decoding")
        gate = report["gate"]
        axes.axhline(gate["clients"], color="gray", linestyle="-.", label="a drafter at the target by its gate")
        for color, (drafters, clients) in enumerate(gate["remote"].items()):
            axes.plot(rtt, clients, "-.", color=f"C{color}", marker="x", label=f"{_remote(drafters)} beside it")
        axes.set(xlabel="round trip (ms)", ylim=(0, None))
        axes.set_ylabel(f"clients at up to {report['limit_ms']:g} ms a token (p95)")
        axes.grid(alpha=0.3)
        rows, share = report["draft_rows"], report["share"]
        axes.legend(fontsize=7, title=f"a draft pass at the target flat up to {rows} rows, a node shared by {share}")
        axes.get_legend().get_title().set_fontsize(7)
        figure.suptitle(f"{report['command']}, {report['date']}, simulated", fontsize=8, wrap=True)
        return figure

    return pictures(plot)


def _remote(name: str) -> str:
    return counted(int(name.removeprefix("r")), "remote drafter")
