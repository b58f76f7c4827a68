"""The synthetic day in a few seconds."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.probe_day.__main__ import REGIONS, Region, main


def test_a_day_has_its_peaks_and_says_that_they_are_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    assert main(["--minutes", "0.05", "--out", str(tmp_path)]) == 0
    assert "synthetic" in capsys.readouterr().out
    assert "SYNTHETIC" in (tmp_path / "load-map.svg").read_text().upper()
    found = json.loads((tmp_path / "load-map.json").read_text())
    assert [region["name"] for region in found["regions"]] == [region.name for region in REGIONS]
    observed = tomllib.loads((tmp_path / "scenario.toml").read_text())
    assert observed["observed"]["synthetic"] is True
    assert all(own["delay_ms"] >= 0.8e3 * region.first for own, region in zip(observed["region"], REGIONS, strict=True))


@pytest.mark.parametrize("region", REGIONS, ids=lambda region: region.name)
def test_a_region_is_busiest_at_its_hour_and_quiet_twelve_hours_later(region: Region) -> None:
    assert region.load(region.busiest) == region.times
    assert 1.0 <= region.load(region.busiest + 12.0) < 1.01
