"""The noise is a published function of (seed, position, token id): anyone who computes it finds the same numbers."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from wanspec_p2p.speculation.noise import KEPT_ROWS, Noise, gumbel_row, uniform_row

SEED = bytes(range(16))
_64 = (1 << 64) - 1


def philox(key: int, counter: tuple[int, int, int, int]) -> list[int]:
    """Philox 4x64-10, from the paper (Salmon, Moraes, Dror, Shaw, SC 2011, section 3.3)."""
    k0, k1 = key & _64, key >> 64
    x0, x1, x2, x3 = counter
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * x0, 0xCA5A826395121157 * x2
        x0, x1, x2, x3 = (p1 >> 64) ^ x1 ^ k0, p1 & _64, (p0 >> 64) ^ x3 ^ k1, p0 & _64
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & _64, (k1 + 0xBB67AE8584CAA73B) & _64
    return [x0, x1, x2, x3]


def uniform(seed: bytes, position: int, token: int, domain: int = 0) -> float:
    """The definition, one number at a time: the generator counts blocks of four from 1."""
    raw = philox(int.from_bytes(seed, "little"), (token // 4 + 1, 0, domain, position))[token % 4]
    return ((raw >> 12) + 0.5) * 2.0**-52


@pytest.mark.parametrize("position", [0, 1, 40, 131_071, 2**40])
@pytest.mark.parametrize("domain", [0, 1])
def test_a_row_is_the_formula(position: int, domain: int) -> None:
    row = uniform_row(SEED, position, 23, domain)
    assert row.tolist() == [uniform(SEED, position, token, domain) for token in range(23)]


def test_gumbel_is_minus_log_of_minus_log() -> None:
    expected = [-math.log(-math.log(uniform(SEED, 5, token))) for token in range(64)]
    assert gumbel_row(SEED, 5, 64) == pytest.approx(expected, rel=1e-14)


def test_golden_values() -> None:
    """Pinned: a change here changes the text of every sampled answer."""
    golden = ["0x1.6279f5ffc2a61p-1", "0x1.9b4417d7ad39bp-1", "0x1.92c4d598fb0b3p-1", "0x1.1a86a0a0aae74p-3"]
    assert [u.hex() for u in uniform_row(SEED, 7, 4).tolist()] == golden
    gumbel = [1.0005345983239784, 1.518298029166297, 1.4272758857091568, -0.6835254392732477]
    assert gumbel_row(SEED, 7, 4) == pytest.approx(gumbel, rel=1e-14)


def test_uniforms_stay_clear_of_both_ends() -> None:
    """Neither logarithm can meet 0: the outermost of the 2**52 values are half a step from the ends."""
    step = 2.0**-52
    least, most = 0.5 * step, (2**52 - 0.5) * step
    assert 0.0 < least
    assert most < 1.0
    assert math.isfinite(-math.log(-math.log(least)))
    assert math.isfinite(-math.log(-math.log(most)))
    row = uniform_row(SEED, 3, 100_000)
    assert 0.0 < row.min() < 1e-4
    assert 1.0 - 1e-4 < row.max() < 1.0


def test_a_longer_row_begins_with_the_shorter_one() -> None:
    assert np.array_equal(uniform_row(SEED, 9, 49_152)[:100], uniform_row(SEED, 9, 100))


def test_seed_position_and_domain_each_change_the_row() -> None:
    other = bytes([1, *SEED[1:]])
    rows = [
        uniform_row(SEED, 1, 8),
        uniform_row(SEED, 2, 8),
        uniform_row(other, 1, 8),
        uniform_row(SEED, 1, 8, domain=1),
    ]
    assert len({tuple(row.tolist()) for row in rows}) == 4


def test_rows_do_not_depend_on_the_order_they_are_asked_for() -> None:
    draw = random.Random(1)
    positions = [draw.randrange(12) for _ in range(60)]
    noise = Noise(SEED, 16)
    for position in positions:
        assert np.array_equal(noise.row(position), gumbel_row(SEED, position, 16))


def test_rows_are_kept_until_their_position_is_settled() -> None:
    noise = Noise(SEED, 16)
    kept = {position: noise.row(position) for position in range(10, 14)}
    noise.settle(12)
    assert noise.row(12) is kept[12]
    assert noise.row(13) is kept[13]
    again = noise.row(11)
    assert again is not kept[11]
    assert np.array_equal(again, kept[11])


def test_no_more_rows_are_kept_than_a_session_needs() -> None:
    """However deep a target has its nodes draft: a row takes eight bytes for each token of the vocabulary."""
    noise = Noise(SEED, 16)
    rows = [noise.row(position) for position in range(KEPT_ROWS + 10)]
    assert all(noise.row(position) is rows[position] for position in range(10, KEPT_ROWS + 10))
    assert noise.row(3) is not rows[3]
    assert np.array_equal(noise.row(3), rows[3])


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_seed_has_sixteen_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Noise(bytes(length), 16)
