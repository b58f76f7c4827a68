from __future__ import annotations

from wanspec_p2p.simulation.capacity_play import Hardware
from wanspec_p2p.simulation.clients import by_clients

HARDWARE = Hardware()


def test_everybody_is_played_with_every_number_of_clients() -> None:
    told: list[tuple[int, int]] = []
    found = by_clients(
        HARDWARE,
        (1, 3),
        passes=(1, 2),
        rtt_ms=(0.0, 30.0),
        drafters=(2,),
        tokens=8,
        seed=0,
        played=lambda done, total: told.append((done, total)),
    )
    assert told == [(done, 28) for done in range(1, 29)]
    assert found["clients"] == [1, 3]
    assert found["plain"] == [30.0, 30.0]
    assert all(gate < 30.0 for gate in found["gate"])
    assert list(found["remote"]) == ["r2 0 ms", "r2 30 ms"]
    assert all(len(times) == 2 for own in found["remote"].values() for times in own.values())


def test_the_best_fixed_number_of_passes_is_found_anew_for_each_number_of_clients() -> None:
    """A draft pass is nearly free for one and dear for sixteen, whose rows it takes one after another."""
    hardware = Hardware(draft=0.002, draft_rows=1)
    found = by_clients(
        hardware, (1, 16), passes=(1, 4), rtt_ms=(), drafters=(), tokens=16, seed=0, played=lambda *_: None
    )
    assert found["remote"] == {}
    assert found["fixed_passes"][0] == "4 × 1"
    assert found["fixed_passes"][1] in ("chain of 1", "1 × 1")
    assert found["fixed"][0] < found["fixed"][1]


def test_a_verification_is_flat_as_far_as_the_hardware_says() -> None:
    found = by_clients(
        Hardware(verify_rows=8),
        (17,),
        passes=(1,),
        rtt_ms=(),
        drafters=(),
        tokens=8,
        seed=0,
        played=lambda *_: None,
    )
    assert found["plain"] == [round(30.0 * 17 / 9, 2)]


def test_distances_that_hardly_differ_are_two() -> None:
    found = by_clients(
        HARDWARE, (1,), passes=(1,), rtt_ms=(10.0, 10.0000001), drafters=(1,), tokens=8, seed=0, played=lambda *_: None
    )
    assert [len(own["alone"]) for own in found["remote"].values()] == [1, 1]
