"""The paper's setting as a figure: latency and offload against round trip, what the paper reports marked beside it."""

from __future__ import annotations

from typing import Any

from wanspec_p2p.simulation.pictures import pictures

__all__ = ["draw"]


def draw(report: dict[str, Any]) -> dict[str, bytes]:
    """The figure as "svg" and "png". Needs matplotlib.

    Args:
        report: of `wanspec sim paper --json`.
    """

    def plot(plt: Any) -> Any:
        figure, (latency, offload) = plt.subplots(1, 2, figsize=(11, 6), layout="constrained")
        for color, (law, own) in enumerate(report["laws"].items()):
            _lines(latency, offload, report["rtt_ms"], law, own, f"C{color}")
        _published(offload, report)
        latency.axhline(1.0, color="black", linewidth=0.8)
        latency.set(ylabel="latency ÷ the co-located chain's", ylim=(0, None))
        offload.set(ylabel="draft passes spared at the target (%)", ylim=(-5, 105))
        for axes in (latency, offload):
            axes.axvline(report["stalls_from_ms"], color="grey", linestyle=":", linewidth=0.8)
            axes.set(xlabel="round trip (ms)")
            axes.grid(alpha=0.3)
            axes.legend(fontsize=7, handlelength=3, loc="upper center", bbox_to_anchor=(0.5, -0.12))
        told = f"{report['command']}, {report['date']}, simulated; dotted: the paper reports stalls from there"
        figure.suptitle(f"{report['caption']}\n{told}", fontsize=8)
        return figure

    return pictures(plot)


def _lines(latency: Any, offload: Any, rtt: list[float], law: str, own: dict[str, Any], color: str) -> None:
    for key, what, style in (
        ("no_local_latency_ratio", "no drafter at the target", ":"),
        ("best_latency_ratio", "best policy", "--"),
        ("shipped_latency_ratio", "default", "-"),
    ):
        latency.plot(rtt, own[key], style, color=color, marker=".", label=f"{law}: {what}")
    for key, what, style in (
        ("offload_at_equal_latency", "at no more latency", "-"),
        ("offload_few_percent_slower", "at up to 5 % more", "--"),
    ):
        offload.plot(rtt, [share * 100.0 for share in own[key]], style, color=color, marker=".", label=f"{law}: {what}")
    alone = own["no_worker"]["offload_few_percent_slower"] * 100.0
    offload.axhline(alone, color=color, linestyle=":", label=f"{law}: no worker, its gate alone, at up to 5 % more")


def _published(axes: Any, report: dict[str, Any]) -> None:
    """Where the round trips are not stated, the band goes all the way."""
    for number, point in enumerate(report["published"]):
        low, high = point["rtt_ms"] or (min(report["rtt_ms"]), max(report["rtt_ms"]))
        bottom, top = (share * 100.0 for share in point["offload"])
        axes.fill_between(
            [low, high], bottom, top, color=f"C{7 + number}", alpha=0.2, linewidth=0, label=f"paper: {point['said']}"
        )
