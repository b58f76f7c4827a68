"""Pictures of one look, the same bytes for the same figures."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

__all__ = ["pictures"]

LOOK: dict[Any, Any] = {
    "svg.hashsalt": "wanspec",
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,
    "font.size": 9,
}
METADATA: dict[str, dict[str, None]] = {"svg": {"Date": None}, "png": {"Software": None}}


def pictures(plot: Callable[[Any], Any]) -> dict[str, bytes]:
    """A figure as "svg" and "png". Needs matplotlib.

    Args:
        plot: draws with pyplot, and returns the figure.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    drawn: dict[str, bytes] = {}
    with plt.rc_context(LOOK):
        figure = plot(plt)
        for kind, metadata in METADATA.items():
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=150, metadata=metadata)
            drawn[kind] = file.getvalue()
        plt.close(figure)
    return drawn
