from __future__ import annotations

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.links.memory import memory_transports
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_NODE
from wanspec_p2p.protocol.node_to_coordinator import Heartbeat
from wanspec_p2p.simulation.swarm_traffic import CountedTransport, Traffic


@in_virtual_time
async def test_frames_are_counted_by_the_type_our_codec_writes_first() -> None:
    near, far = memory_transports(channel_binding=b"bound")
    traffic = Traffic()
    counted = CountedTransport(far, traffic)
    beat = AT_COORDINATOR_FROM_NODE.encode(Heartbeat(sessions=1, leases=("ping",)))
    for frame in (beat, beat, b"\x00", '{"sessions":1}'):
        await near.send(frame)
        assert await counted.receive() == frame
    await counted.send('{"type":"ping","id":1}')
    assert traffic.received == {"heartbeat": 2, "other": 2}
    assert traffic.sent == {"ping": 1}
    assert counted.channel_binding == b"bound"
    await counted.close()
