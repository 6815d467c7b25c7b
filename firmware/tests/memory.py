"""Memories for benches in Python."""

from __future__ import annotations

import random
from typing import Any

__all__ = ["HOST", "SIZE", "Memory"]

SIZE = 4096
"""Bytes."""
HOST = 1 << 40
"""Address of the host's."""


class Memory:
    """Answers a port's reads in order, after some cycles, and takes its writes when it likes.

    Attributes:
        mapped: bytes of it that the host lets the device reach.
        strobes: of all writes so far.
    """

    def __init__(self, port: Any, base: int, rng: random.Random, *, host: bool) -> None:
        self.port, self.base, self.rng, self.host = port, base, rng, host
        self.bytes = bytearray(rng.randbytes(SIZE))
        self.mapped = SIZE
        self.reads: list[int] = []
        self.refused = False
        self.strobes: list[int] = []

    def drive(self, ctx: Any) -> None:
        """What it says in this cycle."""
        port = self.port
        ctx.set(port.request.ready, self.rng.random() < 0.5)
        ctx.set(port.write.ready, self.rng.random() < 0.5)
        self.answers = bool(self.reads) and self.rng.random() < 0.5
        ctx.set(port.data.valid, self.answers)
        ctx.set(port.written, 1)
        if self.answers:
            beat = int.from_bytes(self.bytes[self.reads[0] :][:64], "little")
            if self.host:
                ctx.set(port.data.payload.data, beat)
                ctx.set(port.data.payload.fault, self.reads[0] >= self.mapped)
            else:
                ctx.set(port.data.payload, beat)
        if self.host:
            ctx.set(port.refused, self.refused)
            self.refused = False

    def look(self, ctx: Any) -> None:
        """What it is told."""
        port = self.port
        if ctx.get(port.request.valid) and ctx.get(port.request.ready):
            at = ctx.get(port.request.payload.address) - self.base
            self.reads += [at + 64 * beat for beat in range(ctx.get(port.request.payload.beats))]
        if self.answers and ctx.get(port.data.ready):
            del self.reads[0]
        if ctx.get(port.write.valid) and ctx.get(port.write.ready):
            at = ctx.get(port.write.payload.address) - self.base
            assert at % 64 == 0 and 0 <= at < SIZE
            self.refused = at >= self.mapped
            self.strobes.append(ctx.get(port.write.payload.strobe))
            data = ctx.get(port.write.payload.data).to_bytes(64, "little")
            for byte in range(64):
                if ctx.get(port.write.payload.strobe) >> byte & 1 and not self.refused:
                    self.bytes[at + byte] = data[byte]
