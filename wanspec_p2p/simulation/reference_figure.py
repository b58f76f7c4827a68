"""The reference experiment as people can compare it: latency and the passes spared, side by side, by distance."""

from __future__ import annotations

from typing import Any

from wanspec_p2p.simulation.pictures import pictures
from wanspec_p2p.words import counted

__all__ = ["draw"]

_LINES = (
    ("no_local_latency_ratio", "no drafter at the target", ":"),
    ("shipped_latency_ratio", "default", "-"),
    ("best_latency_ratio", "best policy", "--"),
)


def draw(report: dict[str, Any]) -> dict[str, bytes]:
    """The figure as "svg" and "png". Needs matplotlib.

    Args:
        report: of `wanspec sim reference --json`.
    """
    rtt, baselines = report["rtt_ms"], {"tree": report, "chain": report["chain_baseline"]}

    def plot(plt: Any) -> Any:
        figure, axes = plt.subplots(2, 2, figsize=(10, 6), layout="constrained", sharex=True)
        for column, (baseline, found) in enumerate(baselines.items()):
            latency, offload = axes[0][column], axes[1][column]
            for color, drafters in enumerate(report["chain_baseline"]):
                own, named = found[drafters], counted(int(drafters[1:]), "drafter")
                for key, what, style in _LINES:
                    latency.plot(rtt, own[key], style, color=f"C{color}", marker=".", label=f"{named}, {what}")
                spared = [share * 100.0 for share in own["offload_at_equal_latency"]]
                offload.plot(rtt, spared, "-", color=f"C{color}", marker=".", label=named)
            latency.axhline(1.0, color="black", linewidth=0.8)
            latency.set(title=f"against a {baseline} at the target", ylabel="latency ratio")
            offload.set(xlabel="round trip (ms)", ylabel="offload at a ratio up to 1.00 (%)", ylim=(-5, 105))
            for one in (latency, offload):
                one.grid(alpha=0.3)
                one.legend(fontsize=7, handlelength=4)  # long enough to tell dashes from lines
        figure.suptitle(f"{report['command']}, {report['date']}, simulated", fontsize=8)
        return figure

    return pictures(plot)
