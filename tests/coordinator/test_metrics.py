from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator import metrics as module
from coordinator.acceptance import ModelPair
from coordinator.coordinates import Accuracy
from coordinator.metrics import Metrics
from coordinator.records import PeerState
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Usage
from wanspec_p2p.types import PeerId

ROOT = Path(__file__).parents[2]
NODE = PeerId("n" * 32)
USAGE = Usage(
    prompt_tokens=3,
    completion_tokens=8,
    rounds=4,
    drafted=12,
    accepted=6,
    late=2,
    accepted_by_length={0: (1,), 4: (0, 0, 3, 0, 0)},
    won_by_peer={NODE: 5},
    lost=7,
    invalid=9,
    seconds=2.0,
)


PAIR = ModelPair("big", "b" * 64, "small", "d" * 64)


def receipt(**fields: Any) -> Receipt:
    return Receipt("r", NODE, "j", "s", 8, 8, 4, 1, **fields)


def lines(metrics: Metrics) -> set[str]:
    return set(metrics.render().decode().splitlines())


def test_an_answer_is_counted_under_the_documented_names() -> None:
    metrics = Metrics(lambda: ([PeerState.ACTIVE, PeerState.SILENT], [PeerState.DRAINING], 3, 1))
    metrics.answered(USAGE, resumes=1)
    metrics.first_token(0.2)
    metrics.failed("no_target")
    metrics.receipts([(receipt(rtt=0.03), None), (receipt(by_depth=((5, 3), (3, 1))), PAIR), (receipt(), PAIR)])
    assert {
        "wanspec_spec_decode_num_drafts_total 3.0",
        "wanspec_fallback_rounds_total 1.0",
        "wanspec_spec_decode_num_draft_tokens_total 12.0",
        "wanspec_spec_decode_num_accepted_tokens_total 6.0",
        'wanspec_race_total{outcome="won"} 5.0',
        'wanspec_race_total{outcome="lost"} 7.0',
        'wanspec_race_total{outcome="late"} 2.0',
        'wanspec_race_total{outcome="invalid"} 9.0',
        'wanspec_tokens_total{kind="completion"} 8.0',
        'wanspec_requests_total{outcome="ok"} 1.0',
        'wanspec_requests_total{outcome="no_target"} 1.0',
        "wanspec_resumed_answers_total 1.0",
        "wanspec_round_seconds_sum 0.5",
        "wanspec_first_token_seconds_count 1.0",
        "wanspec_draft_rtt_seconds_count 1.0",
        'wanspec_acceptance_reached_total{drafter_model="small",target_model="big"} 8.0',
        'wanspec_acceptance_right_total{drafter_model="small",target_model="big"} 4.0',
        'wanspec_nodes{state="active"} 1.0',
        'wanspec_nodes{state="silent"} 1.0',
        'wanspec_targets{state="draining"} 1.0',
        "wanspec_leases 3.0",
        "wanspec_answers_in_flight 1.0",
    } <= lines(metrics)


def test_every_series_of_the_board_exists_and_every_metric_is_on_it() -> None:
    board = json.loads((ROOT / "docs/reference/grafana-board.json").read_text(encoding="utf-8"))
    asked = " ".join(target["expr"] for panel in board["panels"] for target in panel["targets"])
    metrics = Metrics(lambda: ([], [], 0, 0), lambda: Accuracy(1, 0.5))
    metrics.answered(USAGE, resumes=0)
    metrics.receipts([(receipt(rtt=0.03, by_depth=((5, 3),)), PAIR)])
    families = list(text_string_to_metric_families(metrics.render().decode()))
    series = {sample.name for family in families for sample in family.samples}
    shown = set(re.findall(r"\bwanspec_\w+", asked))
    assert shown <= series
    meta = ("_created", "_sum", "_count")
    assert {name for name in series if not name.endswith(meta)} == shown
    labels = {label for family in families for sample in family.samples for label in sample.labels}
    assert set(re.findall(r"\{\{(\w+)\}\}", json.dumps(board))) <= labels


def test_every_metric_is_in_the_reference() -> None:
    text = (ROOT / "docs/reference/http-api.md").read_text(encoding="utf-8")
    metrics = Metrics(lambda: ([], [], 0, 0), lambda: Accuracy(1, 0.5))
    names = {family.name for family in text_string_to_metric_families(metrics.render().decode())}
    shortened = re.sub(r"`…_", "`wanspec_spec_decode_", text)
    assert {name for name in names if name not in shortened and not name.endswith("_created")} == set()


def test_the_error_of_predicted_round_trips_is_shown_once_there_is_one() -> None:
    accuracy = Accuracy()
    metrics = Metrics(lambda: ([], [], 0, 0), lambda: accuracy)
    shown = metrics.render().decode()
    assert "wanspec_rtt_predictions_total 0.0" in shown.splitlines()
    assert "wanspec_rtt_prediction_error_median" not in shown
    accuracy = Accuracy(7, 0.125)
    assert {"wanspec_rtt_predictions_total 7.0", "wanspec_rtt_prediction_error_median 0.125"} <= lines(metrics)


def test_nodes_are_never_labels() -> None:
    metrics = Metrics(lambda: ([], [], 0, 0))
    metrics.answered(USAGE, resumes=0)
    assert NODE not in metrics.render().decode()


def test_models_beyond_so_many_share_one_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PAIRS", 2)
    metrics = Metrics(lambda: ([], [], 0, 0))
    for name in ("a", 'b"}\n# x', "c", "d", "a"):
        metrics.receipts([(receipt(by_depth=((1, 0),)), ModelPair("big", "b" * 64, name, "d" * 64))])
    found = {line for line in lines(metrics) if line.startswith("wanspec_acceptance_reached_total")}
    assert found == {
        'wanspec_acceptance_reached_total{drafter_model="a",target_model="big"} 2.0',
        'wanspec_acceptance_reached_total{drafter_model="b\\"}\\n# x",target_model="big"} 1.0',
        'wanspec_acceptance_reached_total{drafter_model="other",target_model="other"} 2.0',
    }


def test_two_coordinators_do_not_share_counters() -> None:
    one, other = (Metrics(lambda: ([], [], 0, 0)) for _ in range(2))
    one.answered(USAGE, resumes=0)
    assert "wanspec_spec_decode_num_drafts_total 0.0" in lines(other)
