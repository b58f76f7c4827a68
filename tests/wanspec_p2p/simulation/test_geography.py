from __future__ import annotations

import itertools

from wanspec_p2p.simulation.geography import FARTHEST_ACCESS, NEAREST_ACCESS, SIDE_SECONDS, Geography


def test_a_map_is_drawn_by_its_seed_and_symmetric() -> None:
    here, names = Geography(1), [f"node-{number}" for number in range(20)]
    for one, other in itertools.combinations(names, 2):
        rtt = here.wan(one, other).rtt
        assert rtt == here.wan(other, one).rtt == Geography(1).wan(one, other).rtt
        assert 2 * NEAREST_ACCESS <= rtt <= 2 * FARTHEST_ACCESS + SIDE_SECONDS * 2**0.5
    assert Geography(2).wan("a", "b") != here.wan("a", "b")
