from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable

import pytest
from structlog.testing import capture_logs

from tests.support.target_benches import ADDRESS, running_target
from tests.support.target_kit import request, target_alone, until
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError, Unreachable, WanspecError
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Drafters, GrantedDrafter, ReceiptsStored
from wanspec_p2p.protocol.target_to_coordinator import (
    DraftersWanted,
    Failed,
    Finished,
    Receipts,
    RegisterTarget,
    TargetHeartbeat,
    Tokens,
)
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.target import control
from wanspec_p2p.target.receipts import AGAIN_SECONDS
from wanspec_p2p.target.recruiting import ASK_AGAIN_SECONDS, FIRST_SCOUT_SECONDS, SPREAD
from wanspec_p2p.target.requests import KEPT_SECONDS
from wanspec_p2p.types import Sampling

# Registering ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_it_says_what_it_is_and_shows_its_secret_until_it_is_taken_in() -> None:
    async with running_target("s3cret", name="atlas", owner="lab", slots=3, queue=5) as bench:
        link, registration = await bench.coordinator.taken_in()
        assert (registration.name, registration.owner, registration.site) == ("atlas", "lab", "unknown")
        assert (registration.slots, registration.queue, registration.addresses) == (3, 5, (ADDRESS,))
        assert registration.model.fingerprint == bench.model.info.fingerprint
        assert registration.model.vocab_size == 256
        assert registration.join_secret == "s3cret"
        await bench.coordinator.heard(link, TargetHeartbeat)
        assert bench.joined == ["default"]
        await link.close()
        _, registration = await bench.coordinator.taken_in()
        assert registration.join_secret == ""
        assert "s3cret" not in repr(registration)


@in_virtual_time
async def test_a_secret_that_was_not_taken_is_shown_again() -> None:
    async with running_target("s3cret") as bench:
        for _ in range(2):
            link = await bench.coordinator.next_link()
            registration = await bench.coordinator.heard(link, RegisterTarget)
            assert registration.join_secret == "s3cret"
            await link.close()


@pytest.mark.parametrize("code", sorted(control.FINAL_REFUSALS))
@in_virtual_time
async def test_a_final_refusal_ends_the_target_with_its_reason(code: CloseCode) -> None:
    async with running_target() as bench:
        link = await bench.coordinator.next_link()
        await link.close(code, "the token has been used")
        with pytest.raises(PeerRefused, match="the token has been used"):
            await bench.ended()
        assert bench.coordinator.dialled == 1


@in_virtual_time
async def test_other_refusals_and_losses_are_tried_again_after_a_jittered_wait() -> None:
    async with running_target() as bench:
        bench.coordinator.failures = [Unreachable("nobody answers"), Unreachable("nobody answers")]
        with capture_logs() as logs:
            link = await bench.coordinator.next_link()
            await link.close(CloseCode.TRY_AGAIN_LATER, "starting up")
            link, _ = await bench.coordinator.taken_in()
        waits = [line["again_in_seconds"] for line in logs if line["event"] == "no coordinator"]
        assert len(waits) == 3 == len(set(waits))
        assert [wait <= ceiling for wait, ceiling in zip(waits, (1, 2, 4), strict=True)] == [True] * 3
        assert [line["reason"] for line in logs][-1] == "starting up"


@in_virtual_time
async def test_a_coordinator_that_took_us_in_is_soon_tried_again_when_it_is_lost() -> None:
    async with running_target() as bench:
        bench.coordinator.failures = [Unreachable("nobody answers")] * 8
        link, _ = await bench.coordinator.taken_in()
        with capture_logs() as logs:
            await bench.coordinator.heard(link, TargetHeartbeat)
            await link.close()
            await bench.coordinator.taken_in()
        [wait] = [line["again_in_seconds"] for line in logs if line["event"] == "no coordinator"]
        assert wait <= 1.0


@in_virtual_time
async def test_a_stranger_in_the_coordinators_place_is_final_before_the_first_welcome() -> None:
    async with running_target() as bench:
        bench.coordinator.failures = [RemoteProtocolError("it is somebody else", CloseCode.HANDSHAKE_FAILED)]
        with pytest.raises(RemoteProtocolError, match="somebody else"):
            await bench.ended()


@in_virtual_time
async def test_a_stranger_later_is_tried_again() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        bench.coordinator.failures = [RemoteProtocolError("it is somebody else", CloseCode.HANDSHAKE_FAILED)]
        await link.close()
        await bench.coordinator.taken_in()
        assert bench.joined == ["default"]  # the second time is still under way
        assert bench.coordinator.dialled == 3


@pytest.mark.parametrize(
    "error",
    [
        RemoteProtocolError("it is somebody else", CloseCode.HANDSHAKE_FAILED),
        PeerRefused(CloseCode.VERSION_MISMATCH, "it speaks another version"),
    ],
)
@in_virtual_time
async def test_a_target_that_was_taken_in_before_it_was_started_tries_again(error: WanspecError) -> None:
    async with running_target(enrolled=True) as bench:
        bench.coordinator.failures = [error]
        await bench.coordinator.taken_in()
        assert bench.coordinator.dialled == 2


@in_virtual_time
async def test_another_version_later_is_tried_again() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        bench.coordinator.failures = [PeerRefused(CloseCode.VERSION_MISMATCH, "it speaks another version")]
        await link.close()
        await bench.coordinator.taken_in()
        assert bench.coordinator.dialled == 3


@in_virtual_time
async def test_a_coordinator_that_never_answers_the_registration_is_left() -> None:
    async with running_target() as bench:
        link = await bench.coordinator.next_link()
        await bench.coordinator.heard(link, RegisterTarget)
        await bench.coordinator.taken_in()
        assert bench.clock.monotonic() > limits.HANDSHAKE_SECONDS
        with pytest.raises(LinkClosed):
            while True:
                await link.receive()


@in_virtual_time
async def test_whatever_comes_before_the_welcome_is_refused() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        await link.close()
        link = await bench.coordinator.next_link()
        await link.send(request())
        with pytest.raises(PeerRefused, match="Generate came before Registered"):
            while True:
                await link.receive()


@pytest.mark.parametrize(
    ("say", "words"),
    [
        (lambda link: link.send(Registered(pool="default", heartbeat=1.0)), "Registered is not expected here"),
        (lambda link: _twice(link), "of this name is being answered"),
    ],
)
@in_virtual_time
async def test_a_coordinator_that_breaks_the_rules_is_left_and_dialled_again(
    say: Callable[[object], Awaitable[None]], words: str
) -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        with capture_logs() as logs:
            await say(link)
            with pytest.raises(PeerRefused, match=words):
                while True:
                    await link.receive()
            await bench.coordinator.taken_in()
        assert any(words in line["reason"] for line in logs if line["event"] == "no coordinator")


async def _twice(link) -> None:  # type: ignore[no-untyped-def]  # a link of either kind
    await link.send(request())
    await link.send(request())


@in_virtual_time
async def test_garbage_from_the_coordinator_closes_the_link_with_a_code() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        await link._frames.transport.send('{"type": "generate", "request": 5}')
        with pytest.raises(PeerRefused) as refusal:
            while True:
                await link.receive()
        assert refusal.value.code == CloseCode.INVALID_DATA
        await bench.coordinator.taken_in()


# Alive ----------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_heartbeats_come_as_often_as_asked_and_say_how_things_stand() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in(heartbeat=5.0)
        await bench.coordinator.heard(link, TargetHeartbeat)  # the first comes at the default interval
        await bench.node()
        begun = bench.clock.monotonic()
        beat = await bench.coordinator.heard(link, TargetHeartbeat)
        assert bench.clock.monotonic() - begun == pytest.approx(5.0, abs=0.1)
        assert (beat.sessions, beat.queued, beat.drafters) == (0, 0, 1)
        assert beat.rtt is not None


@pytest.mark.parametrize("asked", [0.0, 1e12])
@in_virtual_time
async def test_a_coordinator_cannot_make_it_beat_madly_or_never(asked: float) -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in(heartbeat=asked)
        await bench.coordinator.heard(link, TargetHeartbeat)
        begun = bench.clock.monotonic()
        for _ in range(10):
            await bench.coordinator.heard(link, TargetHeartbeat)
        assert 10 * control.MIN_HEARTBEAT - 0.1 <= bench.clock.monotonic() - begun <= 10 * control.MAX_HEARTBEAT + 1


@in_virtual_time
async def test_leases_run_out_also_while_there_is_no_coordinator() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        node = await bench.node(expires=int(bench.clock.wall()) + 100)
        bench.coordinator.failures = [Unreachable("nobody answers")] * 1000
        await link.close()
        ending = await node.ending()
        assert isinstance(ending, PeerRefused) and "the lease has expired" in str(ending)
        assert 1000 <= bench.clock.monotonic() < 1010


# Drafters -------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_drafters_are_asked_for_once_and_again_when_there_were_none() -> None:
    async with running_target(drafters=2) as bench:
        link, _ = await bench.coordinator.taken_in()
        with capture_logs() as logs:
            for _ in range(3):
                want = await bench.coordinator.heard(link, DraftersWanted)
                assert (want.count, want.exclude) == (2, ())
                asked = bench.clock.monotonic()
                await link.send(Drafters(want=want.want, drafters=(), reason="no node is registered"))
            again = await bench.coordinator.heard(link, DraftersWanted)
        assert bench.clock.monotonic() - asked >= ASK_AGAIN_SECONDS
        assert again.want != want.want
        assert len([line for line in logs if "no drafters" in line["event"]]) == 1, "said once, not every two seconds"


@in_virtual_time
async def test_only_what_is_missing_is_asked_for_and_a_node_that_left_is_missing() -> None:
    async with running_target(drafters=2) as bench:
        link, _ = await bench.coordinator.taken_in()
        want = await bench.coordinator.heard(link, DraftersWanted)
        node = await bench.node()
        here, away = node.identity.peer_id, Identity.generate().peer_id
        granted = tuple(
            GrantedDrafter(node=peer, jti=jti, model="small", tokens_per_second=10.0)
            for peer, jti in ((here, "a"), (away, "b"))
        )
        await link.send(Drafters(want=want.want, drafters=granted))  # the first came before we heard of it
        with capture_logs() as logs:
            want = await bench.coordinator.heard(link, DraftersWanted)
        assert (want.count, want.exclude) == (1, (here, away))
        assert [line["node"] for line in logs if "did not come" in line["event"]] == [away]
        await link.send(Drafters(want=want.want, drafters=()))
        await node.close()
        assert (await bench.coordinator.heard(link, DraftersWanted)).count == 2


@in_virtual_time
async def test_that_there_are_no_more_is_said_otherwise_than_that_there_are_none() -> None:
    async with running_target(drafters=2) as bench:
        link, _ = await bench.coordinator.taken_in()
        with capture_logs() as logs:
            want = await bench.coordinator.heard(link, DraftersWanted)
            node = await bench.node()
            for _ in range(3):
                await link.send(Drafters(want=want.want, drafters=(), reason="no other node is registered"))
                want = await bench.coordinator.heard(link, DraftersWanted)
            await node.close()
            while (await bench.coordinator.heard(link, TargetHeartbeat)).drafters:
                pass
            await link.send(Drafters(want=want.want, drafters=(), reason="no other node is registered"))
            await bench.coordinator.heard(link, DraftersWanted)
        said = [{k: v for k, v in line.items() if k != "log_level"} for line in logs if "to be had" in line["event"]]
        assert said == [
            {
                "event": "no more drafters to be had",
                "attached": 1,
                "wanted": 2,
                "reason": "no other node is registered",
            },
            {"event": "no drafters to be had: decoding goes on without", "reason": "no other node is registered"},
        ]


@in_virtual_time
async def test_while_answers_are_made_one_more_is_looked_for_that_may_be_better() -> None:
    async with running_target(drafters=1) as bench:
        link, _ = await bench.coordinator.taken_in()
        want = await bench.coordinator.heard(link, DraftersWanted)
        await link.send(Drafters(want=want.want, drafters=()))
        node = await bench.node(expires=int(bench.clock.wall()) + 10**6)
        begun = bench.clock.monotonic()

        async def asked() -> DraftersWanted:
            """Answers are made meanwhile, one every twenty seconds."""
            for number in itertools.count():
                await link.send(request(f"{bench.clock.monotonic()}-{number}"))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(20):
                        return await bench.coordinator.heard(link, DraftersWanted)
            raise AssertionError

        with capture_logs() as logs:
            scout = await asked()
            assert bench.clock.monotonic() - begun >= (1.0 - SPREAD) * FIRST_SCOUT_SECONDS
            assert (scout.count, scout.exclude) == (1, (node.identity.peer_id,))
            await link.send(Drafters(want=scout.want, drafters=(), reason="nobody else is registered"))
            await bench.coordinator.heard(link, TargetHeartbeat)
        assert not any("to be had" in line["event"] for line in logs), "nobody is missing"
        other = await bench.node(expires=int(bench.clock.wall()) + 10**6)
        assert str(await other.ending()) == "the target has drafters enough"
        again = await asked()
        assert set(again.exclude) == {node.identity.peer_id, other.identity.peer_id}, "it was let go a moment ago"


@in_virtual_time
async def test_a_new_link_is_asked_anew() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        await bench.coordinator.heard(link, DraftersWanted)
        await link.close()
        link, _ = await bench.coordinator.taken_in()
        begun = bench.clock.monotonic()
        await bench.coordinator.heard(link, DraftersWanted)
        assert bench.clock.monotonic() - begun < 0.1


@in_virtual_time
async def test_a_revoked_lease_takes_effect() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        node = await bench.node(jti="bad")
        await bench.coordinator.heard(link, TargetHeartbeat)
        await link.send(LeaseRevoked(jti="bad", reason="it lied to a probe"))
        assert "it lied to a probe" in str(await node.ending())


# Requests and receipts ------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_request_is_answered_over_the_link() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        await link.send(request())
        await link.send(request("bad", ids=(999,)))
        assert (await bench.coordinator.heard(link, Failed)).request == "bad"
        ids: list[int] = []
        while not isinstance(message := await link.receive(), Finished):
            ids.extend(message.ids if isinstance(message, Tokens) else ())
        first = target_alone(bench.model, (1, 2, 3), 12, Sampling())
        assert first[-len(ids) :] == ids
        assert message.usage.completion_tokens == 12


@in_virtual_time
async def test_a_cancelled_request_is_silent_from_then_on() -> None:
    async with running_target() as bench:
        bench.model.before_forward = lambda batch: asyncio.sleep(1)
        link, _ = await bench.coordinator.taken_in()
        await link.send(request())
        await bench.coordinator.heard(link, Tokens)
        await link.send(Cancel(request="r1"))
        await asyncio.sleep(2)
        while True:
            message = await link.receive()
            assert not isinstance(message, Finished | Failed)
            if isinstance(message, TargetHeartbeat) and message.sessions == 0:
                break


@in_virtual_time
async def test_an_answer_goes_on_while_the_coordinator_is_away_and_is_given_to_who_asks_again() -> None:
    async with running_target() as bench:
        bench.model.before_forward = lambda batch: asyncio.sleep(1)
        link, _ = await bench.coordinator.taken_in()
        await link.send(request("before"))
        first = await bench.coordinator.heard(link, Tokens)
        await link.close()
        link, _ = await bench.coordinator.taken_in()
        await asyncio.sleep(4)
        assert (bench.target.desk.active, bench.target.desk.unheard) == (0, 1)
        passes = len(bench.model.batches)
        await link.send(request("after", committed=first.ids))  # another coordinator process has another name for it
        ids = list(first.ids)
        while not isinstance(message := await link.receive(), Finished):
            if isinstance(message, Tokens):
                assert (message.request, message.position) == ("after", len(ids))
                ids.extend(message.ids)
        assert ids == target_alone(bench.model, (1, 2, 3), 12, Sampling())
        more = len(bench.model.batches) - passes
        assert more < 12 - len(first.ids), "what was there was given, not computed again"


@in_virtual_time
async def test_an_answer_nobody_asks_for_again_ends_after_ten_seconds() -> None:
    async with running_target() as bench:
        bench.model.before_forward = lambda batch: asyncio.sleep(3)
        link, _ = await bench.coordinator.taken_in()
        await link.send(request())
        await link.send(request("r2"))
        await bench.coordinator.heard(link, Tokens)
        lost = bench.clock.monotonic()
        await link.close()
        link, _ = await bench.coordinator.taken_in()
        await until(lambda: bench.target.desk.unheard == 0)
        assert KEPT_SECONDS - 1 < bench.clock.monotonic() - lost <= KEPT_SECONDS + 3  # a pass runs to its end
        await until(lambda: bench.target.engine.serving == 0)
        assert bench.model.caches == {}
        await link.send(request())  # the same one, from its beginning
        ids: list[int] = []
        while not isinstance(message := await link.receive(), Finished):
            ids.extend(message.ids if isinstance(message, Tokens) else ())
        assert ids == target_alone(bench.model, (1, 2, 3), 12, Sampling())


@in_virtual_time
async def test_receipts_are_sent_until_they_are_stored_and_then_no_more() -> None:
    async with running_target(drafters=1) as bench:
        bench.model.before_forward = lambda batch: asyncio.sleep(1)
        link, _ = await bench.coordinator.taken_in()
        node = await bench.node(jti="lease-of-the-day")
        await link.send(request())
        opened = await node.opened()
        await node.draft(opened, target_alone(bench.model, (1, 2, 3), 4, Sampling()))
        batch = await bench.coordinator.heard(link, Receipts)
        [receipt] = batch.receipts
        assert (receipt.node, receipt.jti, receipt.drafted) == (node.identity.peer_id, "lease-of-the-day", 4)
        assert receipt.accepted == receipt.won == 3
        await link.close()
        link, _ = await bench.coordinator.taken_in()
        assert await bench.coordinator.heard(link, Receipts) == batch
        await link.send(ReceiptsStored(batch=batch.batch))
        await bench.coordinator.heard(link, TargetHeartbeat)
        await link.close()
        link, _ = await bench.coordinator.taken_in()
        for _ in range(2):
            assert not isinstance(await link.receive(), Receipts)


@in_virtual_time
async def test_receipts_a_coordinator_could_not_store_are_sent_again_on_the_same_link() -> None:
    async with running_target(drafters=1) as bench:
        bench.model.before_forward = lambda batch: asyncio.sleep(1)
        link, _ = await bench.coordinator.taken_in()
        node = await bench.node()
        await link.send(request())
        await node.draft(await node.opened(), target_alone(bench.model, (1, 2, 3), 4, Sampling()))
        batch = await bench.coordinator.heard(link, Receipts)
        said = bench.clock.monotonic()
        assert await bench.coordinator.heard(link, Receipts) == batch
        assert AGAIN_SECONDS <= bench.clock.monotonic() - said <= AGAIN_SECONDS + 5
        await link.send(ReceiptsStored(batch=batch.batch))
        while bench.clock.monotonic() - said < 4 * AGAIN_SECONDS:
            assert not isinstance(await link.receive(), Receipts)


@in_virtual_time
async def test_a_coordinator_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost message is a hole in somebody's answer: the link ends, and answers are resumed elsewhere."""
    monkeypatch.setattr(control, "MAX_WAITING", 8)
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        await bench.coordinator.heard(link, TargetHeartbeat)
        link._frames.transport._incoming.path.capacity = 0
        with capture_logs() as logs:
            await link.send(request(max_tokens=64))
            await until(lambda: any(line["event"] == "no coordinator" for line in logs))
        assert any("does not read" in line["reason"] for line in logs if line["event"] == "no coordinator")
        assert bench.target.desk.active == 0
        await bench.coordinator.taken_in()


@in_virtual_time
async def test_what_fails_in_a_heartbeat_ends_the_target_instead_of_its_heartbeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("a bug")

    async with running_target() as bench:
        await bench.coordinator.taken_in()
        monkeypatch.setattr(bench.target.pool, "close_expired", broken)
        with pytest.raises(RuntimeError, match="a bug"):
            await bench.ended()
