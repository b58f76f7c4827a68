from __future__ import annotations

from structlog.testing import capture_logs

from tests.support.target_kit import names
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts
from wanspec_p2p.target import receipts
from wanspec_p2p.target.receipts import ReceiptBox
from wanspec_p2p.types import PeerId


def receipt(number: int) -> Receipt:
    return Receipt(f"receipt-{number}", PeerId("a" * 32), "lease-1", "s", drafted=4, verified=3, accepted=2, won=1)


def test_they_are_sent_again_until_they_are_stored_under_the_same_name() -> None:
    said: list[Receipts] = []
    box = ReceiptBox(said.append, names("batch"))
    box.add([receipt(1), receipt(2)])
    box.add([receipt(3)])
    assert [batch.batch for batch in said] == ["batch-1", "batch-2"]
    box.send_again()
    assert said[2:] == said[:2]
    box.stored("batch-1")
    box.stored("batch-1")
    box.stored("never heard of")
    box.send_again()
    assert said[4:] == said[1:2]
    box.stored("batch-2")
    assert len(box) == 0


def test_many_are_cut_into_batches_that_a_message_carries() -> None:
    said: list[Receipts] = []
    ReceiptBox(said.append, names("batch")).add([receipt(n) for n in range(limits.MAX_RECEIPTS + 1)])
    assert [len(batch.receipts) for batch in said] == [limits.MAX_RECEIPTS, 1]
    assert len({r.id for batch in said for r in batch.receipts}) == limits.MAX_RECEIPTS + 1


def test_a_coordinator_that_stores_nothing_costs_bounded_memory_and_is_told_of() -> None:
    box = ReceiptBox(lambda batch: None, names("batch"))
    with capture_logs() as logs:
        for number in range(receipts.MAX_BATCHES + 1):
            box.add([receipt(number)])
    assert len(box) == receipts.MAX_BATCHES
    assert [line["log_level"] for line in logs] == ["warning"]
