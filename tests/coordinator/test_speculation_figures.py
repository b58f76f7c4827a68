from __future__ import annotations

from typing import Any

import msgspec

from coordinator.speculation_figures import fallback_rounds, vllm_metrics, wanspec_metrics
from tests.support.fake_target import SERVED
from wanspec_p2p.protocol.target_to_coordinator import Usage
from wanspec_p2p.types import PeerId

NODE = PeerId("n" * 32)
USAGE = Usage(
    prompt_tokens=3,
    completion_tokens=11,
    rounds=7,
    drafted=12,
    accepted=4,
    late=1,
    accepted_by_length={0: (2,), 3: (1, 2, 0, 0), 1: (1, 1)},
    won_by_peer={NODE: 4},
    drafters=2,
    lost=3,
    invalid=5,
    target_draft_passes=6,
    near_ties=2,
    seconds=0.5,
)


def usage(**changes: Any) -> Usage:
    return msgspec.structs.replace(USAGE, **changes)


def test_vllms_figures_leave_rounds_without_drafts_out_and_agree_with_each_other() -> None:
    figures = vllm_metrics(USAGE)
    assert figures == {
        "mean_acceptance_length": 1 + 3 / 5,
        "draft_acceptance_rate": 3 / 12,
        "acceptance_histogram": [2, 3, 0, 0],
        "acceptance_histogram_by_draft_length": {"1": (1, 1), "3": (1, 2, 0, 0)},
        "num_spec_steps": 5,
        "num_accepted_draft_tokens": 3,
        "num_draft_tokens": 12,
        "num_spec_tokens": 3,
    }
    histogram = figures["acceptance_histogram"]
    assert len(histogram) == figures["num_spec_tokens"] + 1
    assert sum(histogram) == figures["num_spec_steps"]
    assert sum(j * count for j, count in enumerate(histogram)) == figures["num_accepted_draft_tokens"]


def test_without_a_draft_nothing_is_divided_by_nothing() -> None:
    for alone in (usage(accepted_by_length={}, drafted=0, rounds=0), usage(accepted_by_length={0: (7,)}, drafted=0)):
        figures = vllm_metrics(alone)
        assert (figures["mean_acceptance_length"], figures["draft_acceptance_rate"]) == (1.0, 0.0)
        assert (figures["acceptance_histogram"], figures["num_spec_tokens"]) == ([0], 0)


def test_our_own_figures_count_every_round() -> None:
    assert fallback_rounds(USAGE) == 2
    assert wanspec_metrics(USAGE, SERVED) == {
        "rounds": 7,
        "fallback_rounds": 2,
        "drafted": 12,
        "accepted": 4,
        "accepted_per_round": 4 / 7,
        "drafters": 2,
        "won_by_peer": {NODE: 4},
        "lost": 3,
        "late": 1,
        "invalid": 5,
        "target_draft_passes": 6,
        "near_ties": 2,
        "seconds": 0.5,
        "fingerprint": SERVED.fingerprint,
        "exactness": "bitwise",
    }
    assert wanspec_metrics(usage(rounds=0), SERVED)["accepted_per_round"] == 0.0
