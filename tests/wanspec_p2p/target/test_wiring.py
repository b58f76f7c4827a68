from __future__ import annotations

import asyncio
import random

import pytest

from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.target_benches import running_target
from tests.support.target_kit import NOWHERE, request, target_alone
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import CloseCode, ConfigError, PeerRefused, Unreachable
from wanspec_p2p.links.memory import memory_transports
from wanspec_p2p.links.peer import connect
from wanspec_p2p.protocol.codec import AT_NODE_FROM_TARGET
from wanspec_p2p.protocol.common_messages import LeaseRevoked
from wanspec_p2p.protocol.target_to_coordinator import Finished, Receipts, TargetDrain, TargetHeartbeat, Tokens
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.target.wiring import Target
from wanspec_p2p.types import Role, Sampling


@pytest.mark.parametrize("settings", [{"network": False}, {"drafters": 0}])
@in_virtual_time
async def test_a_target_without_the_network_asks_for_nobody_and_takes_nobody(settings: dict[str, object]) -> None:
    async with running_target(**settings) as bench:
        link, _ = await bench.coordinator.taken_in()
        node = await bench.node()
        ending = await node.ending()
        assert isinstance(ending, PeerRefused) and "takes no drafts" in str(ending)
        await link.send(LeaseRevoked(jti="whatever", reason=""))
        beat = await bench.coordinator.heard(link, TargetHeartbeat)
        assert beat.drafters == 0
        await link.send(request())
        assert (await bench.coordinator.heard(link, Finished)).usage.completion_tokens == 12


@in_virtual_time
async def test_only_nodes_are_admitted_to_draft() -> None:
    async with running_target() as bench:
        near, far = memory_transports()
        admitting = asyncio.create_task(bench.target.admit(far))
        with pytest.raises(PeerRefused) as refusal:
            await connect(
                near,
                AT_NODE_FROM_TARGET,
                identity=Identity.generate(),
                role=Role.TARGET,
                expect=bench.identity.peer_id,
                clock=bench.clock,
            )
        assert refusal.value.code == CloseCode.HANDSHAKE_FAILED
        with pytest.raises(Exception, match="target"):
            await admitting


# Leaving --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_it_says_that_it_leaves_and_goes() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        await bench.coordinator.heard(link, TargetHeartbeat)
        bench.stop.set()
        assert (await bench.coordinator.heard(link, TargetDrain)).reason == "the target stops"
        await bench.ended()


@in_virtual_time
async def test_what_it_has_to_say_is_sent_before_it_goes() -> None:
    async with running_target() as bench:
        link, _ = await bench.coordinator.taken_in()
        await bench.coordinator.heard(link, TargetHeartbeat)
        path = link._frames.transport._incoming.path
        path.capacity, usual = 0, path.capacity
        bench.stop.set()
        await asyncio.sleep(0.5)
        path.capacity = usual
        link._frames.transport._incoming.changed.set()
        assert await bench.coordinator.heard(link, TargetDrain)
        await bench.ended()


@in_virtual_time
async def test_what_is_under_way_is_finished_and_said_before_it_goes() -> None:
    async with running_target() as bench:
        bench.model.before_forward = lambda batch: asyncio.sleep(0.2)
        link, _ = await bench.coordinator.taken_in()
        await link.send(request())
        await bench.coordinator.heard(link, Tokens)
        bench.stop.set()
        await bench.coordinator.heard(link, TargetDrain)
        assert (await bench.coordinator.heard(link, Finished)).usage.completion_tokens == 12
        await bench.ended()


@in_virtual_time
async def test_what_takes_too_long_is_not_waited_for() -> None:
    async with running_target() as bench:
        bench.model.before_forward = lambda batch: asyncio.sleep(1)
        link, _ = await bench.coordinator.taken_in()
        await link.send(request(max_tokens=1000))
        await bench.coordinator.heard(link, Tokens)
        bench.stop.set()
        begun = bench.clock.monotonic()
        await bench.ended()
        assert bench.clock.monotonic() - begun < 8


@in_virtual_time
async def test_what_drafters_did_for_an_answer_that_is_broken_off_is_said_before_it_goes() -> None:
    async with running_target(drafters=1) as bench:
        bench.model.before_forward = lambda batch: asyncio.sleep(0.5)
        link, _ = await bench.coordinator.taken_in()
        node = await bench.node()
        await link.send(request(max_tokens=1000))
        await node.draft(await node.opened(), target_alone(bench.model, (1, 2, 3), 4, Sampling()))
        await bench.coordinator.heard(link, Tokens)
        bench.stop.set()
        [receipt] = (await bench.coordinator.heard(link, Receipts)).receipts
        assert (receipt.node, receipt.drafted) == (node.identity.peer_id, 4)
        await bench.ended()


@in_virtual_time
async def test_it_can_leave_while_there_is_no_coordinator() -> None:
    async with running_target() as bench:
        bench.coordinator.failures = [Unreachable("nobody answers")] * 1000
        await asyncio.sleep(100)
        bench.stop.set()
        await bench.ended()


@in_virtual_time
async def test_a_tokenizer_of_another_model_is_refused() -> None:
    bench_clock, identity = LoopClock(), Identity.generate()

    class Foreign(ByteTokenizer):
        fingerprint = "f" * 64  # type: ignore[assignment]  # a constant is enough here

    async def dial() -> object:
        raise AssertionError("never dialled")

    with pytest.raises(ConfigError, match="tokenizer"):
        Target(
            TargetSettings(data_dir=NOWHERE, cache_dir=NOWHERE),
            identity,
            identity.public_key,
            ScriptedModel(seed=1),
            Foreign(),
            bench_clock,
            dial=dial,  # type: ignore[arg-type]
            rng=random.Random(1),
        )
