import pytest

from node.limits import LendingLimits, Load

LIMITS = LendingLimits(slots=2, max_prefix=100, leases=3)


def test_an_idle_node_takes_leases_and_sessions_up_to_the_limit() -> None:
    assert LIMITS.refuse_lease(Load(sessions=1, leases=2)) is None
    assert LIMITS.refuse_session(Load(sessions=1), prefix=100) is None


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (Load(paused="its model failed"), "its model failed"),
        (Load(leases=3), "already leased to 3 targets"),
        (Load(sessions=2), "all 2 slots are busy"),
    ],
)
def test_a_lease_is_refused_with_the_reason(load: Load, reason: str) -> None:
    refusal = LIMITS.refuse_lease(load)
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("load", "prefix", "reason"),
    [
        (Load(paused="its model failed"), 1, "its model failed"),
        (Load(sessions=2), 1, "all 2 slots are busy"),
        (Load(), 101, "the prefix has 101 tokens, at most 100"),
    ],
)
def test_a_session_is_refused_with_the_reason(load: Load, prefix: int, reason: str) -> None:
    refusal = LIMITS.refuse_session(load, prefix)
    assert refusal is not None
    assert reason in refusal
