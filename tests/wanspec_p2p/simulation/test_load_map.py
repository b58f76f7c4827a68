from __future__ import annotations

import itertools
import tomllib

import pytest

from wanspec_p2p.client.probe_plan import ProbedEndpoint
from wanspec_p2p.client.series import Measurement
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation.load_map import LoadMap, Percentiles, load_map, scenario

MIDNIGHT = 1_800_057_600.0  # 2027-01-16T00:00:00Z
WEST = [ProbedEndpoint(name, "west", "https://west.example/v1", "big") for name in ("w1", "w2")]
EAST = ProbedEndpoint("e", 'the "far" east', "https://east.example/v1", "big")
DEAD = ProbedEndpoint("d", "nowhere", "https://dead.example/v1", "big")


def at(hour: float, endpoint: str = "w1", first: float = 0.1, each: float | None = 0.01) -> Measurement:
    return Measurement(endpoint, MIDNIGHT + hour * 3600, first, each, 8)


def failed(hour: float, endpoint: str, kind: str) -> Measurement:
    return Measurement(endpoint, MIDNIGHT + hour * 3600, failure=kind)


@pytest.fixture
def found() -> LoadMap:
    busy = [at(9.5, "w2", first) for first in (0.2, 0.3, 0.4)]
    next_day = at(24 + 9.1, "w1", 0.3, None)
    quiet = [at(3.0, "w1", 0.1), at(3.9, "w2", 0.1), failed(3.1, "w1", "timeout")]
    others = [at(23.99, "e", 0.05), failed(0.0, "d", "unreachable"), failed(1.0, "d", "http 503")]
    return load_map([*WEST, EAST, DEAD], [*busy, next_day, *quiet, *others])


def test_a_region_has_its_endpoints_hours_and_failures(found: LoadMap) -> None:
    west, east, nowhere = found.regions
    assert (west.name, west.endpoints, west.measurements, west.failures) == ("west", ("w1", "w2"), 7, {"timeout": 1})
    assert (east.name, east.measurements) == ('the "far" east', 1)
    assert nowhere.failures == {"http 503": 1, "unreachable": 1}
    assert (nowhere.first_token, nowhere.per_token, nowhere.jitter) == (None, None, None)
    assert [hour.hour for hour in west.hours] == list(range(24))
    nine, three, four = west.hours[9], west.hours[3], west.hours[4]
    assert (nine.measurements, nine.failures, nine.first_token) == (4, 0, pytest.approx(0.3))
    assert nine.load == pytest.approx(0.3 / 0.25)
    assert (three.measurements, three.failures, three.first_token, three.load) == (3, 1, pytest.approx(0.1), 0.4)
    assert (four.measurements, four.first_token, four.load) == (0, None, None)


def test_percentiles_and_jitter_are_over_all_hours(found: LoadMap) -> None:
    west = found.regions[0]
    assert west.first_token is not None
    assert west.first_token.p50 == pytest.approx(0.25)  # of 0.1 0.1 0.2 0.3 0.3 0.4
    assert west.first_token.p50 < west.first_token.p90 < west.first_token.p99 < 0.4
    assert west.per_token == Percentiles(0.01, 0.01, 0.01)
    assert west.jitter == pytest.approx((0.1 + 0.1) / 6)  # 0.2 and 0.4 against 0.3; the others are what their hours are


def test_the_map_says_when_and_whether_it_was_made_up(found: LoadMap) -> None:
    assert (found.begun, found.ended) == ("2027-01-16T00:00:00+00:00", "2027-01-17T09:06:00+00:00")
    assert found.synthetic is False
    made_up = ProbedEndpoint("m", "here", "http://127.0.0.1:1/v1", "big", synthetic=True)
    assert load_map([EAST, made_up], [at(0.0, "e")]).synthetic is True
    assert load_map([EAST], [at(0.0, "e")], synthetic=True).synthetic is True


def test_a_series_without_measurements_is_said_so() -> None:
    with pytest.raises(ConfigError, match="no measurement yet"):
        load_map([EAST], [])


def test_the_scenario_is_toml_with_what_was_observed(found: LoadMap) -> None:
    document = tomllib.loads(scenario(found))
    assert document["observed"]["synthetic"] is False
    assert document["observed"]["begun"].isoformat() == found.begun
    west, east = document["region"]  # the third had no whole answer
    assert west["delay_ms"] == pytest.approx(250.0)
    assert west["jitter_ms"] == pytest.approx(33.333)
    assert (len(west["load"]), west["load"][9], west["load"][3]) == (24, 1.2, 0.4)
    assert west["load"][4] == 1.0  # nobody measured
    assert east["name"] == 'the "far" east' and east["nodes"] == 1
    assert east["load"] == [1.0] * 24


def test_without_one_whole_answer_there_is_no_scenario() -> None:
    assert scenario(load_map([EAST], [failed(0.0, "e", "timeout")])) is None


def test_times_of_nothing_divide_nobody() -> None:
    found = load_map([EAST], [at(0.0, "e", first=0.0), at(1.0, "e", first=0.0)])
    assert found.regions[0].hours[0].load is None
    assert tomllib.loads(scenario(found))["region"][0]["load"] == [1.0] * 24


@pytest.mark.parametrize(
    "order", list(itertools.permutations([at(1.0, "e"), at(2.0, "e", 0.4), failed(3.0, "e", "x")]))
)
def test_the_order_of_measurements_does_not_matter(order: tuple[Measurement, ...]) -> None:
    assert load_map([EAST], order) == load_map([EAST], sorted(order, key=lambda m: m.at))
