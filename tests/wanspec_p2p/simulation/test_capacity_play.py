from __future__ import annotations

import pytest

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation import capacity_play as module
from wanspec_p2p.simulation.capacity_play import Case, Hardware, per_token
from wanspec_p2p.simulation.metering import MeteredModel
from wanspec_p2p.simulation.site import Site

FAST = Hardware()


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Whose model ran each pass, how many sessions were in it, and rows."""
    seen: list[tuple[str, int, int]] = []
    forward = module._OnDevice.forward

    async def watched(self: module._OnDevice, batch: object) -> object:
        rows = await forward(self, batch)  # type: ignore[arg-type]
        seen.append((self.info.name, len(rows), sum(map(len, rows))))
        return rows

    monkeypatch.setattr(module._OnDevice, "forward", watched)
    return seen


def of(name: str, passes: list[tuple[str, int, int]]) -> list[tuple[int, int]]:
    """Sessions and rows of one model's passes."""
    return [(sessions, rows) for who, sessions, rows in passes if who == name]


def test_plain_decoding_takes_a_pass_a_token_and_beyond_the_flat_part_its_share_of_one() -> None:
    assert per_token(Case(), FAST, 3, tokens=8, seed=0) == pytest.approx([0.030] * 3)
    assert per_token(Case(), FAST, 130, tokens=8, seed=0) == pytest.approx([0.060] * 130)


def test_draft_passes_and_verifications_at_the_target_take_turns_on_one_device() -> None:
    """Two draft passes and one verification make at most three tokens, and at least one."""
    for seconds in per_token(Case(passes=2), FAST, 2, tokens=16, seed=0):
        assert 0.040 / 3 <= seconds <= 0.040


def test_a_draft_pass_of_more_rows_than_it_holds_takes_its_share_of_more() -> None:
    """What one draft pass of all, held to one token a round, takes of 2/8 and of 16/8 of what it holds."""
    few, many = (
        {clients: per_token(case, hardware, clients, tokens=16, seed=0)[0] for clients in (2, 16)}
        for case, hardware in (
            (Case(passes=1, held=1), Hardware(draft_rows=64)),
            (Case(passes=1, held=1), Hardware(draft_rows=8)),
        )
    )
    assert few[2] == pytest.approx(many[2])
    assert many[16] / few[16] == pytest.approx((0.030 + 2 * 0.005) / (0.030 + 0.005))


@pytest.mark.parametrize("case", [Case(passes=2), Case(passes=2, rows=2), Case(passes=1, rows=8)])
def test_sessions_that_draft_at_the_target_stay_in_step(case: Case, passes: list[tuple[str, int, int]]) -> None:
    """Though all of them ask for more rows at first than a pass has room for."""
    clients = 90
    per_token(case, FAST, clients, tokens=8, seed=0)
    assert len(passes) > 20
    assert {sessions for _, sessions, _ in passes} == {clients}


@pytest.mark.parametrize("clients", [1, 4, 16, 32, 64])
@pytest.mark.parametrize("draft_rows", [8, 64])
def test_a_gate_makes_no_client_slower_than_plain_decoding_however_many_there_are(
    clients: int, draft_rows: int
) -> None:
    hardware = Hardware(draft_rows=draft_rows)
    plain, gate = (per_token(case, hardware, clients, tokens=32, seed=0) for case in (Case(), Case(gate=True)))
    assert sum(gate) <= 1.02 * sum(plain)
    if clients <= 4:
        assert sum(gate) < 0.6 * sum(plain)


def test_remote_drafts_make_answers_faster() -> None:
    assert max(per_token(Case(drafters=1), FAST, 2, tokens=16, seed=0)) < 0.025


def test_remote_drafts_are_held_to_as_many_tokens_a_round_as_a_chain(passes: list[tuple[str, int, int]]) -> None:
    per_token(Case(drafters=2, held=3), FAST, 40, tokens=8, seed=0)
    rows = of("simulated-target", passes)
    assert all(count <= 4 * sessions for sessions, count in rows)
    assert max(count for _, count in rows) > 65  # whatever a row costs


@pytest.mark.parametrize(("share", "nodes"), [(8, 4), (2, 16)])
def test_nodes_are_as_many_as_share_them(share: int, nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[str] = []
    add = Site.add

    def counted(self: Site, spec: object) -> object:
        node = add(self, spec)  # type: ignore[arg-type]
        assert isinstance(node.model, MeteredModel)
        added.append(node.name)
        return node

    monkeypatch.setattr(Site, "add", counted)
    per_token(Case(drafters=2), Hardware(share=share), 16, tokens=8, seed=0)
    assert len(added) == nodes


def test_nobody_goes_home_before_the_longest_stretch_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.WITHOUT_END >= 2 * (module.WARM_UP + module.MOST_TOKENS)
    monkeypatch.setattr(module, "WITHOUT_END", 24)
    with pytest.raises(RuntimeError, match="an answer ended before every stretch was over: 1 client, seed 0"):
        per_token(Case(), FAST, 1, tokens=16, seed=0)


def test_an_answer_that_takes_hours_is_one_line() -> None:
    with pytest.raises(
        ConfigError, match="more than an hour with 2 clients: take fewer --tokens or a shorter --verify"
    ):
        per_token(Case(), Hardware(verify=300.0), 2, tokens=16, seed=0)
