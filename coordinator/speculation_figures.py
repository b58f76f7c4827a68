"""What speculation did for one answer, in vLLM's words and in ours (docs/reference/http-api.md). Pure."""

from __future__ import annotations

from typing import Any

from wanspec_p2p.protocol.target_to_coordinator import ServedModel, Usage

__all__ = ["fallback_rounds", "vllm_metrics", "wanspec_metrics"]


def fallback_rounds(usage: Usage) -> int:
    """Rounds in which the target decoded one token alone, as no draft was there."""
    return sum(usage.accepted_by_length.get(0, ()))


def vllm_metrics(usage: Usage) -> dict[str, Any]:
    """The names of vLLM's docs/features/speculative_decoding/acceptance_metrics.md, and what they mean there: rounds
    without a draft are left out. A tree of drafts is as long as it is deep.
    """
    by_length = {length: rounds for length, rounds in sorted(usage.accepted_by_length.items()) if length}
    longest = max(by_length, default=0)
    histogram = [sum(rounds[j] for rounds in by_length.values() if j < len(rounds)) for j in range(longest + 1)]
    # Not `usage.accepted`, less where a stop string cut the last round: readers check that these figures agree.
    steps, accepted = sum(histogram), sum(j * rounds for j, rounds in enumerate(histogram))
    return {
        "mean_acceptance_length": 1.0 + (accepted / steps if steps else 0.0),
        "draft_acceptance_rate": accepted / usage.drafted if usage.drafted else 0.0,
        "acceptance_histogram": histogram,
        "acceptance_histogram_by_draft_length": {str(length): rounds for length, rounds in by_length.items()},
        "num_spec_steps": steps,
        "num_accepted_draft_tokens": accepted,
        "num_draft_tokens": usage.drafted,
        "num_spec_tokens": longest,
    }


def wanspec_metrics(usage: Usage, model: ServedModel) -> dict[str, Any]:
    """Args:
    model: that of the target that finished the answer.
    """
    return {
        "rounds": usage.rounds,
        "fallback_rounds": fallback_rounds(usage),
        "drafted": usage.drafted,
        "accepted": usage.accepted,
        "accepted_per_round": usage.accepted / usage.rounds if usage.rounds else 0.0,
        "drafters": usage.drafters,
        "won_by_peer": usage.won_by_peer,
        "lost": usage.lost,
        "late": usage.late,
        "invalid": usage.invalid,
        "target_draft_passes": usage.target_draft_passes,
        "near_ties": usage.near_ties,
        "seconds": usage.seconds,
        "fingerprint": model.fingerprint,
        "exactness": model.exactness,
    }
