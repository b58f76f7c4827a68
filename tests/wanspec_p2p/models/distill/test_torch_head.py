from __future__ import annotations

import pytest
import torch

from wanspec_p2p.models.distill import torch_head
from wanspec_p2p.models.distill.torch_head import soft_cross_entropy


@pytest.mark.parametrize("at_once", [3, 7, 1000])
def test_loss_and_gradient_are_those_of_the_plain_formula(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setitem(torch_head.POSITIONS, "cpu", at_once)
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(7, 5, generator=random).requires_grad_()
    head = torch.randn(11, 5, generator=random)
    labels = torch.stack([torch.randperm(11, generator=random)[:4] for _ in range(7)])
    weights = torch.rand(7, 4, generator=random)
    weights[2] = 0  # a position without labels asks for nothing
    labels[3, 1:], weights[3, 1:] = labels[3, 0], 0  # unknown labels share a row, without weight

    loss = soft_cross_entropy(hidden, head, labels, weights)
    (own,) = torch.autograd.grad(3 * loss, hidden)
    law = (hidden @ head.T).log_softmax(-1)
    plain = -(weights * law.gather(1, labels)).sum()
    (expected,) = torch.autograd.grad(3 * plain, hidden)
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)
    assert not own[2].any()
