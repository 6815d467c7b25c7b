"""Placing payloads in shared memory."""

from __future__ import annotations

import mmap
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.container._arena import Arena, Memory

KiB = 1 << 10
MiB = 1 << 20


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20 * KiB)), max_size=60))
def test_payloads_never_overlap_and_all_room_comes_back(steps: list[tuple[bool, int]]) -> None:
    memory = Memory.create("test", 64 * KiB)
    arena = Arena(memory)
    placed: dict[int, bytes] = {}
    try:
        for take, number in steps:
            if take:
                data = bytes([number % 251]) * number
                offset = arena.put(data)
                if offset is not None:
                    placed[offset] = data
            elif placed:
                offset = sorted(placed)[number % len(placed)]
                arena.release(offset)
                del placed[offset]
            assert all(memory.read(at, len(data)) == data for at, data in placed.items())
        for offset in placed:
            arena.release(offset)
        assert arena.in_use == 0
        assert arena.put(bytes(64 * KiB)) == 0, "all of it is one piece again"
    finally:
        memory.close()


def test_a_full_arena_says_so_and_a_stranger_cannot_release() -> None:
    memory = Memory.create("test", 64 * KiB)
    arena = Arena(memory)
    assert arena.put(bytes(40 * KiB)) == 0
    assert arena.put(bytes(40 * KiB)) is None
    with pytest.raises(KeyError):
        arena.release(64)
    memory.close()


def test_nobody_can_change_the_size() -> None:
    memory = Memory.create("test", 64 * KiB)
    for size in (0, 128 * KiB):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size)
    memory.close()


@pytest.mark.parametrize("span", [(-1, 1), (0, 65537), (65536, 1), (1 << 52, 1), (4, -1)])
def test_a_span_beyond_the_memory_is_refused(span: tuple[int, int]) -> None:
    memory = Memory.create("test", 64 * KiB)
    with pytest.raises(ValueError, match="65536"):
        memory.read(*span)
    memory.close()


def test_a_large_payload_gives_its_pages_back() -> None:
    memory = Memory.create("test", 32 * MiB)
    arena = Arena(memory)
    offset = arena.put(bytes(16 * MiB))
    assert offset is not None
    assert os.fstat(memory.fd).st_blocks * 512 >= 16 * MiB
    arena.release(offset)
    assert os.fstat(memory.fd).st_blocks * 512 <= mmap.PAGESIZE
    memory.close()
