from __future__ import annotations

from structlog.testing import capture_logs

from tests.support.target_kit import names
from wanspec_p2p.clock import ManualClock
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts
from wanspec_p2p.target import receipts
from wanspec_p2p.target.receipts import ReceiptBox
from wanspec_p2p.types import PeerId


def receipt(number: int) -> Receipt:
    return Receipt(f"receipt-{number}", PeerId("a" * 32), "lease-1", "s", drafted=4, verified=3, accepted=2, won=1)


def test_they_are_sent_again_until_they_are_stored_under_the_same_name() -> None:
    said: list[Receipts] = []
    box = ReceiptBox(said.append, names("batch"), ManualClock())
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


def test_what_is_not_stored_for_a_while_is_sent_again_in_turn_and_not_all_at_once() -> None:
    said: list[Receipts] = []
    clock = ManualClock()
    box = ReceiptBox(said.append, names("batch"), clock)
    count = receipts.AGAIN_AT_ONCE + 2
    for number in range(count):
        box.add([receipt(number)])
    first = said.copy()
    clock.advance(receipts.AGAIN_SECONDS / 2)
    box.send_overdue()
    assert said == first
    clock.advance(receipts.AGAIN_SECONDS / 2)
    box.stored("batch-2")
    box.send_overdue()
    box.send_overdue()
    box.send_overdue()
    assert said[count:] == [batch for batch in first if batch.batch != "batch-2"], "each once, however often one asks"
    clock.advance(receipts.AGAIN_SECONDS)
    for _ in range(2):
        box.send_overdue()
    assert len(said) == count + 2 * (count - 1)


def test_many_are_cut_into_batches_that_a_message_carries() -> None:
    said: list[Receipts] = []
    ReceiptBox(said.append, names("batch"), ManualClock()).add([receipt(n) for n in range(limits.MAX_RECEIPTS + 1)])
    assert [len(batch.receipts) for batch in said] == [limits.MAX_RECEIPTS, 1]
    assert len({r.id for batch in said for r in batch.receipts}) == limits.MAX_RECEIPTS + 1


def test_a_coordinator_that_stores_nothing_costs_bounded_memory_and_is_told_of() -> None:
    box = ReceiptBox(lambda batch: None, names("batch"), ManualClock())
    with capture_logs() as logs:
        for number in range(receipts.MAX_BATCHES + 1):
            box.add([receipt(number)])
    assert len(box) == receipts.MAX_BATCHES
    assert [line["log_level"] for line in logs] == ["warning"]
