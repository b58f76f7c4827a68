"""Every Prometheus name of the coordinator, in one place (docs/reference/http-api.md).

The speculation names run parallel to vLLM's `vllm:spec_decode_*`. Nothing is labelled by node: nodes come and go, and
each would leave its series behind; `/api/state` has them one by one. Names of models are labels, but peers choose
them, so only so many are told apart.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from coordinator.acceptance import ModelPair
from coordinator.coordinates import Accuracy
from coordinator.ledger import MAX_PAIRS
from coordinator.records import PeerState
from coordinator.speculation_figures import fallback_rounds
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Usage

__all__ = ["Metrics", "Population"]

Population = Callable[[], tuple[Iterable[PeerState], Iterable[PeerState], int, int]]
"""States of nodes, states of targets, number of leases, number of answers under way; read when scraped."""
RACE = ("won", "lost", "late", "invalid")
"""What becomes of a draft token that was not simply wrong."""
_OTHER = ("other", "other")
"""Labels of all pairs of models after the first `MAX_PAIRS` of this process."""
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """One registry a coordinator, so that two in one process (tests, the simulator) do not share counters."""

    def __init__(self, population: Population, accuracy: Callable[[], Accuracy] = Accuracy) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Now(population, accuracy))
        name = "wanspec_spec_decode_num_"
        self._drafts = Counter(name + "drafts", "Rounds that verified drafts.", registry=registry)
        self._draft_tokens = Counter(name + "draft_tokens", "Draft tokens verified.", registry=registry)
        self._accepted = Counter(name + "accepted_tokens", "Draft tokens in answers.", registry=registry)
        self._fallback = Counter("wanspec_fallback_rounds", "Rounds without a draft.", registry=registry)
        self._race = Counter("wanspec_race", "Draft tokens by what became of them.", ["outcome"], registry=registry)
        self._rtt = Histogram(
            "wanspec_draft_rtt_seconds", "Node to target round trip.", buckets=_SECONDS, registry=registry
        )
        self._round = Histogram(
            "wanspec_round_seconds", "Mean round of an answer.", buckets=_SECONDS, registry=registry
        )
        self._first = Histogram(
            "wanspec_first_token_seconds", "Request to first token.", buckets=_SECONDS, registry=registry
        )
        self._requests = Counter("wanspec_requests", "Requests by their end.", ["outcome"], registry=registry)
        self._tokens = Counter("wanspec_tokens", "Tokens by kind.", ["kind"], registry=registry)
        self._resumed = Counter("wanspec_resumed_answers", "Answers continued by another target.", registry=registry)
        self._near_ties = Counter("wanspec_near_ties", "Positions decided within the margin.", registry=registry)
        models = ("target_model", "drafter_model")
        self._reached = Counter("wanspec_acceptance_reached", "Drafted positions judged.", models, registry=registry)
        self._right = Counter("wanspec_acceptance_right", "Of these, those drafted rightly.", models, registry=registry)
        self._pairs: set[tuple[str, str]] = set()

    def answered(self, usage: Usage, *, resumes: int) -> None:
        self._requests.labels("ok").inc()
        self._tokens.labels("prompt").inc(usage.prompt_tokens)
        self._tokens.labels("completion").inc(usage.completion_tokens)
        alone = fallback_rounds(usage)
        self._fallback.inc(alone)
        self._drafts.inc(max(usage.rounds - alone, 0))
        self._draft_tokens.inc(usage.drafted)
        self._accepted.inc(usage.accepted)
        won = sum(usage.won_by_peer.values())
        for outcome, count in zip(RACE, (won, usage.lost, usage.late, usage.invalid), strict=True):
            self._race.labels(outcome).inc(count)
        self._near_ties.inc(usage.near_ties)
        self._resumed.inc(resumes)
        if usage.rounds:
            self._round.observe(usage.seconds / usage.rounds)

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def failed(self, code: str) -> None:
        """`code` is an OpenAI error code, or `cancelled` by the submitter, or `failed` by an error of our own: a closed
        set, so that labels stay few.
        """
        self._requests.labels(code).inc()

    def receipts(self, receipts: Iterable[tuple[Receipt, ModelPair | None]]) -> None:
        for receipt, pair in receipts:
            if receipt.rtt is not None:
                self._rtt.observe(receipt.rtt)
            if pair is not None and receipt.by_depth:
                labels = self._labels(pair)
                self._reached.labels(*labels).inc(sum(reached for reached, _ in receipt.by_depth))
                self._right.labels(*labels).inc(sum(right for _, right in receipt.by_depth))

    def _labels(self, pair: ModelPair) -> tuple[str, str]:
        if pair.names not in self._pairs and len(self._pairs) >= MAX_PAIRS:
            return _OTHER
        self._pairs.add(pair.names)
        return pair.names

    def render(self) -> bytes:
        """Text exposition format 0.0.4."""
        return generate_latest(self._registry)


class _Now(Collector):
    """Gauges that are counted when somebody looks."""

    def __init__(self, population: Population, accuracy: Callable[[], Accuracy]) -> None:
        self._population, self._accuracy = population, accuracy

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        nodes, targets, leases, answers = self._population()
        yield _by_state("wanspec_nodes", "Registered nodes.", nodes)
        yield _by_state("wanspec_targets", "Registered targets.", targets)
        yield GaugeMetricFamily("wanspec_leases", "Leases offered or held.", value=leases)
        yield GaugeMetricFamily("wanspec_answers_in_flight", "Answers under way.", value=answers)
        with contextlib.suppress(RuntimeError):  # no event loop: nobody serves
            yield GaugeMetricFamily("wanspec_tasks", "Tasks of the event loop.", value=len(asyncio.all_tasks()))
        predictions = self._accuracy()
        name = "wanspec_rtt_predictions"
        yield CounterMetricFamily(name, "Node to target round trips predicted, then measured.", predictions.checked)
        if predictions.median_error is not None:
            name = "wanspec_rtt_prediction_error_median"
            yield GaugeMetricFamily(name, "Their median relative error.", predictions.median_error)


def _by_state(name: str, help_text: str, states: Iterable[PeerState]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help_text, labels=["state"])
    counts = Tally(states)
    for state in (PeerState.ACTIVE, PeerState.SILENT, PeerState.DRAINING):
        family.add_metric([state.value], counts[state])
    return family
