"""The last step of training without its largest array: loss and gradient over the vocabulary, some positions at once.

A batch's logits take hundreds of megabytes, and writing them to memory and reading them again costs as much as the
drafter's own layers. Over a few hundred positions they stay in a cache, and the gradient is taken while they are there
(the idea of Liger Kernel's fused linear cross-entropy, Hsu et al., arXiv 2410.10989).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["soft_cross_entropy"]

POSITIONS = {"cpu": 384, "cuda": 8192, "mps": 2048}


def soft_cross_entropy(hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Sum over positions of the cross-entropy between weighted labels and softmax(hidden · headᵀ).

    Args:
        hidden: (positions, width); the gradient goes there alone.
        head: (vocabulary, width), frozen.
        labels: (positions, k), rows of `head`; several may be the same where their weight is zero.
        weights: (positions, k), float32.
    """
    loss: Tensor = _SoftCrossEntropy.apply(hidden, head, labels, weights)  # type: ignore[no-untyped-call]
    return loss


class _SoftCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden)
        step = POSITIONS[hidden.device.type]
        for at in range(0, len(hidden), step):
            own = slice(at, at + step)
            logits = (hidden[own].to(head.dtype) @ head.T).float()
            total = weights[own].sum(-1, keepdim=True)
            said = (weights[own] * logits.gather(1, labels[own])).sum()
            largest = logits.amax(-1, keepdim=True)
            law = logits.sub_(largest).exp_()
            mass = law.sum(-1, keepdim=True)
            loss += (total * (mass.log() + largest)).sum() - said
            law.mul_(total / mass).scatter_add_(1, labels[own], -weights[own])
            gradient[own] = (law.to(head.dtype) @ head).to(hidden.dtype)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0].to(gradient.dtype), None, None, None
