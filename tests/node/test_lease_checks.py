import pytest

from node.lease_checks import dialable, may_be_timed, unfit
from tests.support.node_facts import NodeFacts
from wanspec_p2p.protocol.coordinator_to_node import Landmark

CERTIFICATE = "c" * 64
ADDRESSES = ("ws://127.0.0.1:4711/wanspec/draft",)


@pytest.fixture
def facts() -> NodeFacts:
    return NodeFacts()


def test_a_lease_for_our_model_on_loopback_fits(facts: NodeFacts) -> None:
    assert unfit(facts.claims("a"), "a", (facts.model,), ADDRESSES) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"jti": "b"}, "another number"),
        ({"digest": "0" * 64}, "does not have"),
        ({"tokenizer": "0" * 64}, "does not have"),
    ],
)
def test_what_does_not_fit_is_said(facts: NodeFacts, changes: dict[str, object], reason: str) -> None:
    refusal = unfit(facts.claims("a", **changes), "a", (facts.model,), ADDRESSES)
    assert refusal is not None
    assert reason in refusal
    assert "no address that may be dialled" in (unfit(facts.claims("a"), "a", (facts.model,), ()) or "")


@pytest.mark.parametrize(
    ("address", "certificate", "allowed"),
    [
        ("ws://127.0.0.1:1/wanspec/draft", None, True),
        ("ws://127.0.0.1:1/wanspec/draft?now=1", None, False),
        ("wss://gpu.example:1/wanspec/draft", CERTIFICATE, True),
        ("wss://gpu.example:1/wanspec/draft", None, False),  # TLS without a fingerprint proves nothing
        ("http://127.0.0.1:1/wanspec/draft", CERTIFICATE, False),
    ],
)
def test_only_safe_addresses_are_dialled(
    facts: NodeFacts, address: str, certificate: str | None, allowed: bool
) -> None:
    claims = facts.claims(addresses=(address,), certificate=certificate)
    assert dialable(claims, loopback=True) == ((address,) if allowed else ())


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_loopback_is_dialled_only_where_the_coordinator_is_there_too(facts: NodeFacts, scheme: str) -> None:
    here, elsewhere = f"{scheme}://[::1]:1/wanspec/draft", "wss://gpu.example:1/wanspec/draft"
    claims = facts.claims(addresses=(here, elsewhere), certificate=CERTIFICATE)
    assert dialable(claims, loopback=True) == (here, elsewhere)
    assert dialable(claims, loopback=False) == (elsewhere,)
    assert may_be_timed(Landmark(facts.target.peer_id, here), loopback=True)
    assert not may_be_timed(Landmark(facts.target.peer_id, here), loopback=False)
