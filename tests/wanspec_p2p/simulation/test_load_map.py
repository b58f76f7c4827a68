from __future__ import annotations

import itertools
import tomllib

import msgspec
import pytest

from wanspec_p2p.client.probe_plan import ProbedEndpoint
from wanspec_p2p.client.series import TIMEOUT, Measurement
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation.load_map import LoadMap, Percentiles, failing, load_map, scenario
from wanspec_p2p.simulation.scenario import MAX_LOAD, MAX_NODES, Scenario

MIDNIGHT = 1_800_057_600.0  # 2027-01-16T00:00:00Z
WEST = [ProbedEndpoint(name, "west", "https://west.example/v1", "big") for name in ("w1", "w2")]
EAST = ProbedEndpoint("e", 'the "far" east', "https://east.example/v1", "big")
DEAD = ProbedEndpoint("d", "nowhere", "https://dead.example/v1", "big")


def at(hour: float, endpoint: str = "w1", first: float = 0.1, each: float | None = 0.01) -> Measurement:
    return Measurement(endpoint, MIDNIGHT + hour * 3600, first, each, 8)


def failed(hour: float, endpoint: str, kind: str, first: float | None = None) -> Measurement:
    return Measurement(endpoint, MIDNIGHT + hour * 3600, first, failure=kind)


@pytest.fixture
def found() -> LoadMap:
    busy = [at(9.5, "w2", first) for first in (0.2, 0.3, 0.4)]
    next_day = at(24 + 9.1, "w1", 0.3, None)
    quiet = [at(3.0, "w1", 0.1), at(3.9, "w2", 0.1), failed(3.1, "w1", "http 503")]
    others = [at(23.99, "e", 0.05), failed(0.0, "d", "unreachable"), failed(1.0, "d", "http 503")]
    return load_map([*WEST, EAST, DEAD], [*busy, next_day, *quiet, *others])


def test_a_region_has_its_endpoints_hours_and_failures(found: LoadMap) -> None:
    west, east, nowhere = found.regions
    assert (west.name, west.endpoints, west.measurements, west.failures) == ("west", ("w1", "w2"), 7, {"http 503": 1})
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
    mixed = load_map([EAST, made_up], [at(0.0, "e"), at(0.0, "m")])
    assert mixed.synthetic is True and [region.synthetic for region in mixed.regions] == [False, True]
    assert mixed.marked == {"here"}
    east, here = (scenario(mixed) or "").split("[[region]]")[1:]
    assert "# synthetic: made up, not observed" in here and "synthetic" not in east
    assert load_map([made_up], [at(0.0, "m")]).marked == frozenset()  # said of all at once
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


@pytest.mark.parametrize("first", [None, 60.0])
def test_without_one_whole_answer_there_is_no_scenario(first: float | None) -> None:
    found = load_map([EAST], [failed(0.0, "e", TIMEOUT, first)])
    assert (found.regions[0].jitter, scenario(found)) == (None, None)


def overloaded(limit: float | None) -> list[Measurement]:
    """A day at 0.2 s, and an hour in which one of twelve is answered, quicker than ever."""
    day = [at(hour + minute / 60, "e", 0.2) for hour in range(24) if hour != 20 for minute in range(0, 60, 5)]
    return [*day, at(20.0, "e", 0.15), *(failed(20 + minute / 60, "e", TIMEOUT, limit) for minute in range(5, 60, 5))]


def test_a_timeout_took_the_time_it_had() -> None:
    (east,) = load_map([EAST], overloaded(60.0)).regions
    assert east.first_token is not None and (east.first_token.p50, east.first_token.p99) == (0.2, 60.0)
    assert east.hours[20].first_token == 60.0
    assert east.jitter == 0.0  # nothing that came came at another time than its hour's


def test_a_timeout_of_a_series_that_does_not_say_took_as_long_as_the_slowest() -> None:
    slow = [at(1.0, "w1", 3.0)]
    east = load_map([*WEST, EAST], [*overloaded(None), *slow]).regions[1]
    assert east.first_token is not None and east.first_token.p99 == east.hours[20].first_token == 3.0


def test_timeouts_slow_an_hour_that_is_served_for_the_most_part() -> None:
    few = [at(5.0, "e", first) for first in (0.1, 0.2, 0.3)] + [failed(5.5, "e", TIMEOUT, 60.0)] * 2
    five = load_map([EAST], few).regions[0].hours[5]
    assert (five.first_token, five.load, five.mostly_failed) == (0.3, 1.0, False)


@pytest.mark.parametrize("limit", [None, 60.0])
def test_an_hour_of_which_most_failed_does_not_look_quiet(limit: float | None) -> None:
    found = load_map([EAST], overloaded(limit))
    (east,) = found.regions
    twenty = east.hours[20]
    assert (twenty.measurements, twenty.failures, twenty.mostly_failed, twenty.load) == (12, 11, True, None)
    assert [hour.hour for hour in east.hours if hour.mostly_failed] == [20]
    written = scenario(found)
    assert tomllib.loads(written)["region"][0]["load"] == [1.0] * 24
    assert "# at least half of the measurements failed at 20:00 (92 %)" in written


@pytest.mark.parametrize(("refused", "mostly"), [(2, False), (3, True)])
def test_refusals_take_no_time_but_half_of_them_are_most(refused: int, mostly: bool) -> None:
    served = [at(4.0, "e", 0.1)] * 3 + [at(9.0, "e", 0.2)] * 5
    four = load_map([EAST], [*served, *[failed(4.5, "e", "http 503")] * refused]).regions[0].hours[4]
    assert (four.first_token, four.mostly_failed) == (0.1, mostly)
    assert four.load == (None if mostly else pytest.approx(0.5))


def test_hours_that_failed_are_told_in_words() -> None:
    assert failing(load_map([EAST], [at(0.0, "e")]).regions[0]) == ""
    nobody = load_map([EAST], [failed(hour, "e", "unreachable") for hour in (1.0, 2.0)])
    assert failing(nobody.regions[0]) == "at least half of the measurements failed in every hour"


def test_times_of_nothing_divide_nobody() -> None:
    found = load_map([EAST], [at(0.0, "e", first=0.0), at(1.0, "e", first=0.0)])
    assert found.regions[0].hours[0].load is None
    assert tomllib.loads(scenario(found))["region"][0]["load"] == [1.0] * 24


def replayed(found: LoadMap) -> list[float]:
    """Milliseconds that the scenario's only region takes in each hour."""
    (region,) = msgspec.convert(tomllib.loads(scenario(found) or ""), Scenario).region
    assert region.delay_ms is not None and region.load is not None
    return [region.delay_ms * load for load in region.load]


@pytest.mark.parametrize("failing_hours", [2, 16, 23])
def test_hours_that_mostly_failed_do_not_decide_what_is_usual(failing_hours: int) -> None:
    down = [failed(hour, "e", TIMEOUT, 60.0) for hour in range(failing_hours) for _ in range(12)]
    served = [at(hour, "e", 0.026) for hour in range(failing_hours, 24) for _ in range(12)]
    found = load_map([EAST], [*down, *served])
    (east,) = found.regions
    assert east.usual == 0.026
    assert east.first_token is not None and east.first_token.p99 == 60.0
    assert [hour.load for hour in east.hours] == [None] * failing_hours + [1.0] * (24 - failing_hours)
    assert replayed(found) == [pytest.approx(26.0)] * 24


def test_where_every_hour_mostly_failed_the_usual_is_of_all() -> None:
    (east,) = load_map([EAST], [at(0.0, "e", 0.1), *[failed(0.5, "e", TIMEOUT, 60.0)] * 2]).regions
    assert (east.usual, east.hours[0].load) == (60.0, None)


def test_an_hour_that_is_thousands_of_times_quicker_keeps_its_digits() -> None:
    found = load_map([EAST], [*[at(hour, "e", 60.0) for hour in range(23)], at(23.0, "e", 0.026)])
    assert replayed(found) == [*[pytest.approx(60e3)] * 23, pytest.approx(26.0, rel=1e-3)]


def test_a_load_beyond_what_a_scenario_may_say_is_bounded_and_named() -> None:
    found = load_map([EAST], [*[at(hour, "e", 0.01) for hour in range(23)], at(23.0, "e", 15.0)])
    assert found.regions[0].hours[23].load == pytest.approx(1500.0)
    assert replayed(found) == [*[pytest.approx(10.0)] * 23, pytest.approx(10.0 * MAX_LOAD)]
    assert f"# load is more than a scenario may say, {MAX_LOAD}, at 23:00 (1500)" in (scenario(found) or "")


def test_a_scenario_of_more_regions_than_may_be_says_so() -> None:
    endpoints = [ProbedEndpoint(f"e{n}", f"r{n}", "https://h.example/v1", "m") for n in range(MAX_NODES + 1)]
    written = scenario(load_map(endpoints, [at(0.0, endpoint.name) for endpoint in endpoints])) or ""
    assert len(msgspec.convert(tomllib.loads(written), Scenario).region) == MAX_NODES
    assert f"# {MAX_NODES + 1} regions were measured" in written


@pytest.mark.parametrize(
    "order", list(itertools.permutations([at(1.0, "e"), at(2.0, "e", 0.4), failed(3.0, "e", "x")]))
)
def test_the_order_of_measurements_does_not_matter(order: tuple[Measurement, ...]) -> None:
    assert load_map([EAST], order) == load_map([EAST], sorted(order, key=lambda m: m.at))
