from __future__ import annotations

from typing import Any

import pytest

from wanspec_p2p.simulation.pictures import pictures

pytest.importorskip("matplotlib")


def line(plt: Any) -> Any:
    figure, axes = plt.subplots()
    axes.plot([1, 2], [3, 4], label="a $line")
    axes.legend()
    return figure


def test_a_figure_comes_in_both_kinds_its_text_as_text_and_always_the_same() -> None:
    drawn = pictures(line)
    assert sorted(drawn) == ["png", "svg"]
    assert b"<svg" in drawn["svg"] and b"a $line" in drawn["svg"]
    assert drawn["png"].startswith(b"\x89PNG")
    assert pictures(line) == drawn


def test_nothing_of_it_stays_open() -> None:
    from matplotlib import pyplot as plt

    pictures(line)
    assert plt.get_fignums() == []
