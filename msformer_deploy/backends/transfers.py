"""Copies between the memories of the host and of a GPU: the host waits once for a batch, and not for each array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def uploaded(array: NDArray[Any], device: torch.device | str) -> Tensor:
    """An array as a tensor on a device; on the CPU without a copy.

    To a GPU it goes through memory that its driver reads by itself (pinned), so the host does not wait for the copy.
    """
    tensor, device = torch.from_numpy(array), torch.device(device)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def downloaded(tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Tensors of any shapes and types, on one device, as arrays; those of a CPU share its memory.

    From a GPU they come as one copy, for which the host waits.
    """
    if not any(each.is_cuda for each in tensors):
        return [each.numpy() for each in tensors]
    return unpacked(packed(tensors).cpu().numpy(), tensors)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """The bytes of all tensors, one after the other, uint8 (n,): those with the largest elements first, see below."""
    return torch.cat([tensors[each].reshape(-1).view(torch.uint8) for each in _by_size(tensors)])


def unpacked(content: NDArray[Any], tensors: Sequence[Tensor]) -> list[NDArray[Any]]:
    """Parts of what :func:`packed` gave, as arrays with the shapes and types of the tensors, in their order."""
    found: dict[int, NDArray[Any]] = {}
    start = 0
    for place in _by_size(tensors):
        tensor = tensors[place]
        end = start + tensor.numel() * tensor.element_size()
        array_type = torch.empty(0, dtype=tensor.dtype).numpy().dtype
        found[place] = content[start:end].view(array_type).reshape(tuple(tensor.shape))
        start = end
    return [found[place] for place in range(len(tensors))]


def _by_size(tensors: Sequence[Tensor]) -> list[int]:
    """Places of the tensors, by the size of their elements: so that each begins where its type may."""
    return sorted(range(len(tensors)), key=lambda place: -tensors[place].element_size())
