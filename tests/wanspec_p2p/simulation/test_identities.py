from __future__ import annotations

from tests.support.scripted_models import ScriptedModel
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.security.leases import check, issue
from wanspec_p2p.simulation.identities import chance, identity, lease_claims


def test_keys_follow_from_seed_and_name() -> None:
    assert identity(1, "node-0").peer_id == identity(1, "node-0").peer_id
    assert len({identity(seed, name).peer_id for seed in (1, 2) for name in ("node-0", "node-1")}) == 4


def test_what_one_draws_moves_nothing_of_anothers() -> None:
    first, again, other = chance(1, "a"), chance(1, "a"), chance(1, "b")
    assert [first.random() for _ in range(3)] == [again.random() for _ in range(3)]
    assert chance(1, "a").random() != other.random()


def test_the_lease_is_one_that_a_target_admits() -> None:
    clock, coordinator = ManualClock(), identity(1, "coordinator")
    node, target = identity(1, "node-0").peer_id, identity(1, "target").peer_id
    claims = lease_claims(
        clock, name="node-0", node=node, target=target, owner="lab", site="basement", model=ScriptedModel(1).info
    )
    clock.advance(365 * 24 * 3600.0)
    lease = issue(coordinator, claims)
    assert check(lease, coordinator=coordinator.public_key, clock=clock, node=node, target=target) == claims
