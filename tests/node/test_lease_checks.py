import pytest

from node.lease_checks import dialable, unfit
from tests.support.node_facts import NodeFacts

CERTIFICATE = "c" * 64


@pytest.fixture
def facts() -> NodeFacts:
    return NodeFacts()


def test_a_lease_for_our_model_on_loopback_fits(facts: NodeFacts) -> None:
    assert unfit(facts.claims("a"), "a", (facts.model,)) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"jti": "b"}, "another number"),
        ({"digest": "0" * 64}, "does not have"),
        ({"tokenizer": "0" * 64}, "does not have"),
        ({"addresses": ("ws://203.0.113.7:80/wanspec/draft",)}, "no address that may be dialled"),
    ],
)
def test_what_does_not_fit_is_said(facts: NodeFacts, changes: dict[str, object], reason: str) -> None:
    refusal = unfit(facts.claims("a", **changes), "a", (facts.model,))
    assert refusal is not None
    assert reason in refusal


@pytest.mark.parametrize(
    ("address", "certificate", "allowed"),
    [
        ("ws://127.0.0.1:1/x", None, True),
        ("ws://localhost:1/x", None, True),
        ("ws://[::1]:1/x", None, True),
        ("ws://203.0.113.7:1/x", CERTIFICATE, False),  # plain text off loopback, whatever else it says
        ("ws://127.0.0.1.evil.example:1/x", None, False),
        ("ws://127.0.0.1@evil.example:1/x", None, False),
        ("wss://gpu.example:1/x", CERTIFICATE, True),
        ("wss://gpu.example:1/x", None, False),  # TLS without a fingerprint proves nothing
        ("http://127.0.0.1:1/x", CERTIFICATE, False),
        ("wss://gpu.example:99999/x", CERTIFICATE, False),
        ("wss://[::1/x", CERTIFICATE, False),
        ("wss:///x", CERTIFICATE, False),
    ],
)
def test_only_safe_addresses_are_dialled(
    facts: NodeFacts, address: str, certificate: str | None, allowed: bool
) -> None:
    claims = facts.claims(addresses=(address,), certificate=certificate)
    assert dialable(claims) == ((address,) if allowed else ())
