from __future__ import annotations

import torch

from wanspec_p2p.models.torch_cache import FIRST_SLOTS, CacheShape, PassCache, SessionCache

SHAPE = CacheShape(layers=2, heads=2, head=4, dtype=torch.float32, device=torch.device("cpu"))


def write(cache: SessionCache, values: list[float]) -> None:
    """One pass whose rows hold `values` in every column."""
    start = cache.length + cache.held
    view = PassCache(cache, start, start + len(values))
    rows = torch.tensor(values).view(1, 1, -1, 1).expand(1, 2, -1, 4)
    for layer in range(2):
        view.update(rows, rows, layer)


def committed(cache: SessionCache) -> list[float]:
    return slots(cache)[: cache.length]


def slots(cache: SessionCache) -> list[float]:
    """Committed and held ones."""
    columns = cache.block[:, :, : cache.length + cache.held, :8]
    first = columns[0, 0, :, 0]
    assert torch.equal(columns, first.view(1, 1, -1, 1).expand_as(columns))
    return [float(value) for value in first]


def test_update_shows_the_slots_written_so_far_with_ones_behind_the_values() -> None:
    cache = SessionCache(SHAPE)
    write(cache, [1, 2])
    cache.commit(2)
    rows = torch.full((1, 2, 1, 4), 3.0)
    keys, values = PassCache(cache, 2, 32).update(rows, rows, 1)
    assert keys.shape == (2, 32, 4)
    assert torch.equal(keys[0, :4, 0], torch.tensor([1.0, 2.0, 3.0, 0.0]))
    assert torch.equal(values[..., 4:], torch.ones(2, 32, values.shape[2] - 4))


def test_a_kept_path_moves_up_to_the_committed_rows() -> None:
    cache = SessionCache(SHAPE)
    write(cache, [1, 2, 10, 11, 12, 13])
    cache.commit(2)
    cache.keep((1, 3))
    assert committed(cache) == [1, 2, 11, 13]


def test_keep_works_on_overlapping_slots_and_on_none() -> None:
    cache = SessionCache(SHAPE)
    write(cache, [1, 10, 11, 12, 13])
    cache.commit(1)
    cache.keep(())
    assert committed(cache) == [1]
    cache.keep((0, 2, 3))
    assert committed(cache) == [1, 10, 12, 13]


def test_held_nodes_move_up_behind_the_kept_path_and_new_rows_follow_them() -> None:
    cache = SessionCache(SHAPE)
    write(cache, [1, 10, 11, 12, 13])
    cache.commit(1)
    cache.keep((0,), (2, 3))
    assert (committed(cache), slots(cache)) == ([1, 10], [1, 10, 12, 13])
    write(cache, [14, 15])
    cache.commit(0)
    assert cache.held == 0
    cache.keep((), (0, 1, 2, 3))
    assert slots(cache) == [1, 10, 12, 13, 14, 15]
    cache.commit(0)
    cache.keep((1, 3), (2,))
    assert (committed(cache), slots(cache)) == ([1, 10, 13, 15], [1, 10, 13, 15, 14])


def test_holding_everything_copies_nothing() -> None:
    cache = SessionCache(SHAPE)
    write(cache, [1, 10, 11])
    cache.commit(1)
    version = cache.block._version
    cache.keep((), (0, 1))
    assert cache.block._version == version
    cache.keep((), (1,))
    assert cache.block._version > version


def test_crop_forgets_and_reserve_keeps_what_is_committed() -> None:
    cache = SessionCache(SHAPE)
    write(cache, [1, 2, 3])
    cache.commit(3)
    cache.crop(2)
    cache.crop(5)
    cache.reserve(FIRST_SLOTS + 1)
    assert cache.block.shape[2] == 2 * FIRST_SLOTS
    assert committed(cache) == [1, 2]
    assert PassCache(cache, 2, 4).get_seq_length() == 2


def test_growing_keeps_rows_that_are_still_provisional() -> None:
    cache = SessionCache(SHAPE)
    write(cache, [1, 2, 3])
    cache.reserve(FIRST_SLOTS + 1)
    cache.commit(3)
    assert committed(cache) == [1, 2, 3]
