"""`wanspec bench speed` with models without weights: everything else, its draft link included, is what ships. And what
`wanspec bench exactness` says of what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.wanspec_p2p.cli.conftest import Run
from wanspec_p2p.cli.bench import commands, speed
from wanspec_p2p.cli.bench.exactness import Condition, Difference, Outcome
from wanspec_p2p.errors import ExitCode
from wanspec_p2p.models import loading
from wanspec_p2p.models.catalog import Catalog

PROMPTS = Path(__file__).parents[3] / "data/prompts.jsonl"
COMMAND = (
    *("bench", "speed", "--prompts", str(PROMPTS), "--count", "1"),
    *("--tokens", "4", "--threads", "1", "--dtype", "float32"),
)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def load_language_model(name: str, **settings: Any) -> ScriptedModel:
        return ScriptedModel(1, name=name)

    async def target_against_transformers(*given: Any, **settings: Any) -> speed.Against:
        return speed.Against(ours=[2.0], theirs=[1.0], equal_answers=1, near_ties=0, first_margins=[])

    monkeypatch.setattr(loading, "load_language_model", load_language_model)
    monkeypatch.setattr(loading, "load_tokenizer", lambda name, **settings: ByteTokenizer())
    monkeypatch.setattr(Catalog, "path", lambda self, name: Path("/nowhere"))
    monkeypatch.setattr(speed, "target_against_transformers", target_against_transformers)


@pytest.mark.usefixtures("scripted")
def test_the_report_is_all_that_is_printed(run: Run) -> None:
    code, out, err = run(*COMMAND)
    assert (code, err) == (0, "")
    heading, *tables = [line for line in out.splitlines() if line]
    assert heading.endswith("smollm2-135m, 1 threads, answers of 4 tokens.")
    assert [line for line in tables if not line.startswith("|")] == [
        "On the wire, one node with smollm2-draft on a loopback link, WebSocket payload both ways:"
    ]
    assert sum(line.startswith("| in one pass ÷ one after another |") for line in tables) == len(speed.SHARED_WIDTHS)


@pytest.mark.usefixtures("scripted")
def test_json_is_one_object_and_nothing_else(run: Run) -> None:
    code, out, err = run(*COMMAND, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    figures = json.loads(out)
    [engine] = figures["engines"]
    assert [(gain["sessions"], gain["rows"]) for gain in engine["gain_of_company"]] == [(4, 1), (4, 4), (4, 8)]
    assert [wire["temperature"] for wire in figures["wire"]] == [0.0, 0.8]
    assert [wire["tokens"] for wire in figures["wire"]] == [4, 4]


def outcomes(monkeypatch: pytest.MonkeyPatch, *found: Outcome) -> None:
    async def played(*given: Any) -> list[Outcome]:
        return list(found)

    monkeypatch.setattr(commands, "_exactness", played)


COMPARE = ("bench", "exactness", "--prompts", str(PROMPTS), "--count", "1")


def test_exactness_is_a_table(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes(monkeypatch, Outcome(Condition.LIAR, 0.8, 1, 8, 4, 2))
    code, out, err = run(*COMPARE)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "| condition | temperature | answers | tokens | rounds | accepted per round | identical |",
        "|---|---|---|---|---|---|---|",
        "| a node lying in every token | 0.8 | 1 | 8 | 4 | 0.50 | yes |",
    ]


def test_its_report_names_the_drafter_at_the_target(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Outcome(Condition.HONEST, 0.0, 1, 8, 4, 2, 1, "ngram", 3, [Difference("p", 5)])
    outcomes(monkeypatch, found)
    code, out, err = run(*COMPARE, "--local-drafter", "ngram")
    assert (code, err) == (ExitCode.NOT_IDENTICAL, "")
    assert out.splitlines() == [
        "The target has a drafter of its own, ngram; alone it had none.",
        "",
        "| condition | temperature | answers | tokens | rounds | accepted per round | first from nodes "
        "| draft passes at the target | identical |",
        "|---|---|---|---|---|---|---|---|---|",
        "| three honest nodes | 0 | 1 | 8 | 4 | 0.50 | 1 | 3 | no: 1 answer differs |",
    ]
    code, out, err = run(*COMPARE, "--local-drafter", "ngram", "--json")
    (said,) = json.loads(out)
    assert (said["local_drafter"], said["target_draft_passes"], said["won_by_nodes"]) == ("ngram", 3, 1)
    assert not said["identical"]
