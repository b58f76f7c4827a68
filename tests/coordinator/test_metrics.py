from __future__ import annotations

from coordinator.metrics import Metrics
from coordinator.records import PeerState
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Usage
from wanspec_p2p.types import PeerId

NODE = PeerId("n" * 32)
USAGE = Usage(
    prompt_tokens=3, completion_tokens=8, rounds=4, drafted=12, accepted=6, late=2, won_by_peer={NODE: 5}, seconds=2.0
)


def lines(metrics: Metrics) -> set[str]:
    return set(metrics.render().decode().splitlines())


def test_an_answer_is_counted_under_the_documented_names() -> None:
    metrics = Metrics(lambda: ([PeerState.ACTIVE, PeerState.SILENT], [PeerState.DRAINING], 3, 1))
    metrics.answered(USAGE, resumes=1)
    metrics.first_token(0.2)
    metrics.failed("no_target")
    metrics.receipts([Receipt("r", NODE, "j", "s", 1, 1, 1, 1, rtt=0.03), Receipt("q", NODE, "j", "s", 1, 1, 1, 1)])
    assert {
        "wanspec_spec_decode_num_drafts_total 4.0",
        "wanspec_spec_decode_num_draft_tokens_total 12.0",
        "wanspec_spec_decode_num_accepted_tokens_total 6.0",
        'wanspec_race_total{outcome="won"} 5.0',
        'wanspec_race_total{outcome="late"} 2.0',
        'wanspec_tokens_total{kind="completion"} 8.0',
        'wanspec_requests_total{outcome="ok"} 1.0',
        'wanspec_requests_total{outcome="no_target"} 1.0',
        "wanspec_resumed_answers_total 1.0",
        "wanspec_round_seconds_sum 0.5",
        "wanspec_first_token_seconds_count 1.0",
        "wanspec_draft_rtt_seconds_count 1.0",
        'wanspec_nodes{state="active"} 1.0',
        'wanspec_nodes{state="silent"} 1.0',
        'wanspec_targets{state="draining"} 1.0',
        "wanspec_leases 3.0",
        "wanspec_answers_in_flight 1.0",
    } <= lines(metrics)


def test_nodes_are_never_labels() -> None:
    metrics = Metrics(lambda: ([], [], 0, 0))
    metrics.answered(USAGE, resumes=0)
    assert NODE not in metrics.render().decode()


def test_two_coordinators_do_not_share_counters() -> None:
    one, other = (Metrics(lambda: ([], [], 0, 0)) for _ in range(2))
    one.answered(USAGE, resumes=0)
    assert "wanspec_spec_decode_num_drafts_total 0.0" in lines(other)
