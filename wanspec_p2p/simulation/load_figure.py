"""The load map as people see it: when which region is slow, and how slow at worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from wanspec_p2p.simulation.load_map import LoadMap, Percentiles, Region
from wanspec_p2p.simulation.pictures import pictures
from wanspec_p2p.words import counted

__all__ = ["draw"]


def draw(found: LoadMap) -> dict[str, bytes]:
    """The figure as "svg" and "png". Needs matplotlib."""
    marked = found.marked
    names = [f"{region.name} (synthetic)" if region.name in marked else region.name for region in found.regions]

    def plot(plt: Any) -> Any:
        figure, axes = plt.subplots(
            1, 3, figsize=(14, 1.8 + 0.45 * len(names)), width_ratios=(3, 1, 1), layout="constrained", sharey=True
        )
        cells = [
            [
                math.nan if hour.first_token is None or hour.mostly_failed else hour.first_token * 1e3
                for hour in region.hours
            ]
            for region in found.regions
        ]
        image = axes[0].imshow(cells, aspect="auto", cmap="viridis", interpolation="nearest")
        figure.colorbar(image, ax=axes[0], label="median time to first token (ms)")
        axes[0].set(title="by hour of the day", xlabel=_hours(axes[0], found.regions), xticks=range(0, 24, 2))
        axes[0].set_yticks(range(len(names)), names)
        _bars(axes[1], [region.first_token for region in found.regions], "time to first token")
        _bars(axes[2], [region.per_token for region in found.regions], "time per output token")
        some = "some " if marked else ""
        label = f"{some}SYNTHETIC delays, made up: " if found.synthetic else ""
        figure.suptitle(f"{label}load of {counted(len(names), 'region')}, {found.begun} to {found.ended}")
        return figure

    return pictures(plot)


def _hours(axes: Any, regions: Sequence[Region]) -> str:
    """Hatch the hours in which most measurements failed, and say how many; returns what the axis is called."""
    failed = [(row, hour) for row, region in enumerate(regions) for hour in region.hours if hour.mostly_failed]
    for row, hour in failed:
        corners = [hour.hour + at for at in (-0.5, 0.5)], row - 0.5, row + 0.5
        axes.fill_between(*corners, facecolor="none", edgecolor="grey", hatch="////", linewidth=0)
        text = f"{hour.failures / hour.measurements * 100:.0f}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        axes.text(hour.hour, row, text, ha="center", va="center", fontsize=6, bbox=box)
    return "hour (UTC); hatched: at least half failed, percent" if failed else "hour (UTC)"


def _bars(axes: Any, rows: list[Percentiles | None], title: str) -> None:
    for name, marker in (("p50", "o"), ("p90", "s"), ("p99", "x")):
        at = [(i, getattr(row, name) * 1e3) for i, row in enumerate(rows) if row is not None]
        axes.plot([x for _, x in at], [i for i, _ in at], marker=marker, linestyle="", label=name)
    axes.set(title=title, xlabel="ms")
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=7)
