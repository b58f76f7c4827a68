from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from wanspec_p2p.cli.main import app
from wanspec_p2p.simulation.capacity_play import Hardware

FOUND = {
    "clients": [1, 4],
    "plain": [30.0, 30.0],
    "fixed": [10.5, 11.9],
    "fixed_passes": ["5 × 8", "3 × 8"],
    "gate": [11.2, 11.5],
    "remote": {"r2 0 ms": {"alone": [9.0, 16.6], "gate": [8.4, 11.6]}},
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Hardware]:
    """Nobody plays: what is found is always the same."""
    hardware: list[Hardware] = []

    def by_clients(own: Hardware, *_: object, **__: object) -> dict[str, object]:
        hardware.append(own)
        return FOUND

    monkeypatch.setattr("wanspec_p2p.simulation.clients.by_clients", by_clients)
    return hardware


def test_the_report_says_how_to_repeat_it(asked: list[Hardware]) -> None:
    flags = ["--clients", "1,4", "--verify-rows", "24", "--draft-rows", "8", "--rtt", "0", "--json"]
    result = CliRunner().invoke(app, ["sim", "clients", *flags])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["command"] == (
        "wanspec sim clients --clients 1,4 --verify 30 --verify-rows 24 --draft 5 --draft-rows 8 --share 8"
        " --passes 1,2,3,5 --rtt 0 --drafters 2 --tokens 64 --seed 0"
    )
    assert found["gate"] == FOUND["gate"]
    assert asked == [Hardware(0.030, 0.005, 8, 8, 24)]


@pytest.mark.usefixtures("asked")
def test_people_see_a_line_for_each_way_and_a_column_for_each_number_of_clients() -> None:
    result = CliRunner().invoke(app, ["sim", "clients"])
    assert result.exit_code == 0, result.output
    lines = [line.split("  ")[0] + "|" + " ".join(line.split()[-2:]) for line in result.output.splitlines()]
    assert "the gate|11.2 11.5" in lines
    assert "best fixed passes|10.5 11.9" in lines
    assert "r2 0 ms, beside the gate|8.4 11.6" in lines
    assert any(line.split()[-6:] == ["5", "×", "8", "3", "×", "8"] for line in result.output.splitlines())


def test_what_cannot_be_is_one_clear_line() -> None:
    result = CliRunner().invoke(app, ["sim", "clients", "--clients", "0"])
    assert result.exit_code != 0
    assert "--clients: '0' is not a number from 1 to 256" in (result.output + str(result.exception))
