"""Addresses in device DRAM: tensors that never live at the same time share theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

__all__ = ["ALIGNMENT", "Lifetime", "allocate"]

ALIGNMENT: Final = 64


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A tensor that takes *size* bytes from step *first* to step *last*, both included."""

    size: int
    first: int
    last: int

    def meets(self, other: Lifetime) -> bool:
        """Whether there is a step at which both live."""
        return self.first <= other.last and other.first <= self.last


def allocate(lifetimes: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An address for each of *lifetimes*, a multiple of 64, and the bytes that all take together.

    Largest first, each into the lowest gap that it fits in: within a few per cent of the optimum
    for networks (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
    2020, "greedy by size").
    """
    addresses = [0] * len(lifetimes)
    placed: list[int] = []
    for index in sorted(range(len(lifetimes)), key=lambda i: (-lifetimes[i].size, i)):
        taken = sorted(
            (addresses[other], addresses[other] + lifetimes[other].size)
            for other in placed
            if lifetimes[other].meets(lifetimes[index])
        )
        address = 0
        for begin, end in taken:
            if address + lifetimes[index].size <= begin:
                break
            address = max(address, _aligned(end))
        addresses[index] = address
        placed.append(index)
    ends = (address + life.size for address, life in zip(addresses, lifetimes, strict=True))
    return addresses, _aligned(max(ends, default=0))


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
