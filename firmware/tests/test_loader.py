"""The loader takes and refuses images as the emulator does."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import google_crc32c
import pytest
from amaranth.sim import Simulator

from edged.npu import Array, DType, Entry, Layer, Op, ProgramImage, Schedule, Tensor
from edged.npu.image import image_digest, serialize_image
from edged.npu.instructions import Instruction, Opcode
from edged.npu.regmap import IMAGE_HEADER, IMAGE_SECTION, Section, Status
from firmware.rtl.loader import Loader
from firmware.rtl.parameters import Parameters

BANK_BYTES = 1 << 20
PARAMETERS = Parameters(Array(8, 8, 1), 16 << 10, 8 << 10)
END = Instruction(Opcode.END, {}).pack()


def made() -> ProgramImage:
    """Two entries of a layer each, whose code does nothing."""
    tensors = tuple(Tensor(name, DType.U8, (2, 2, 8), 0, 64 * at) for at, name in enumerate("abc"))
    layers = tuple(
        Layer(Op.RESCALE, name, (at,), at + 1, lefts=(0,)) for at, name in enumerate("xy")
    )
    return ProgramImage(
        PARAMETERS.array,
        tensors,
        (Entry(layers[:1], (0,), (1,), 0), Entry(layers[1:], (1,), (2,), 3)),
        dram_bytes=1 << 12,
        code=4 * END,
        packed=bytes(64),
        schedule=Schedule(PARAMETERS.activation_buffer, PARAMETERS.weight_buffer, 8),
    )


class Load:
    """What came of the load of an image.

    Attributes:
        entries: the first instruction of each that was put down.
    """

    def __init__(self, image: bytes, crc: int | None = None, *, fault: bool = False) -> None:
        self.image = image
        self.crc = crc
        self.fault = fault
        self.entries: dict[int, int] = {}
        self.status = Status.FAULT
        self.loader = Loader(PARAMETERS, BANK_BYTES)
        simulator = Simulator(self.loader)
        simulator.add_clock(1e-6)
        simulator.add_testbench(self._bench)
        simulator.run()

    async def _bench(self, ctx: Any) -> None:
        loader, image = self.loader, self.image
        ctx.set(loader.bank, 1)
        ctx.set(loader.length, len(image))
        ctx.set(loader.crc_given, self.crc is not None)
        ctx.set(loader.crc, self.crc or 0)
        ctx.set(loader.start, 1)
        assert ctx.get(loader.begin) and ctx.get(loader.wipe)
        await ctx.tick()
        ctx.set(loader.start, 0)
        ctx.set(loader.wiped, 1)
        assert ctx.get(loader.copy)
        self.base = ctx.get(loader.target)
        await ctx.tick()
        ctx.set(loader.wiped, 0)
        ctx.set(loader.moved, 1)
        ctx.set(loader.fault, self.fault)
        ctx.set(loader.moved_crc, google_crc32c.value(image))
        await ctx.tick()
        ctx.set(loader.moved, 0)
        padded = image + bytes(4096)
        for _ in range(1000):
            at = ctx.get(loader.address) - self.base
            ctx.set(loader.valid, ctx.get(loader.want))
            if ctx.get(loader.want):
                assert 0 <= at <= len(image) - 4, "a word outside of the image"
                ctx.set(loader.word, int.from_bytes(padded[at : at + 4], "little"))
            if ctx.get(loader.entry_write):
                self.entries[ctx.get(loader.entry.number)] = ctx.get(loader.entry.instruction)
            if ctx.get(loader.done):
                self.status = Status(ctx.get(loader.status))
                assert ctx.get(loader.end) and ctx.get(loader.sound) == (self.status == Status.OK)
                self.digest = ctx.get(loader.digest).to_bytes(32, "little")
                self.program = {
                    name: ctx.get(getattr(loader.program, name))
                    for name in (
                        "dram_bytes",
                        "code",
                        "code_end",
                        "packed",
                        "packed_end",
                        "entries",
                    )
                }
                return
            check, length = ctx.get(loader.check), ctx.get(loader.check_length)
            await ctx.tick()
            ctx.set(loader.moved, check)
            if check:
                assert at % 64 == 0 and at + length <= len(image), "a section outside of the image"
                ctx.set(loader.moved_crc, google_crc32c.value(image[at : at + length]))
        raise AssertionError("the load does not end")


def test_a_sound_image() -> None:
    image = serialize_image(made())
    load = Load(image, google_crc32c.value(image))
    assert load.status is Status.OK
    assert load.base == 2 * BANK_BYTES - 4096
    assert load.entries == {0: 0, 1: 3}
    assert load.digest == image_digest(image)
    extents = sections(image)
    assert load.program == {
        "dram_bytes": 1 << 12,
        "code": load.base + extents[Section.CODE][1],
        "code_end": load.base + extents[Section.CODE][1] + 4 * 32,
        "packed": load.base + extents[Section.PACKED][1],
        "packed_end": load.base + extents[Section.PACKED][1] + 64,
        "entries": 2,
    }


def sections(image: bytes | bytearray) -> dict[int, tuple[int, int, int]]:
    """Where its entry in the table, and the section itself begin, and the length of that."""
    (count,) = struct.unpack_from("<I", image, IMAGE_HEADER.offset("sections"))
    found = {}
    for number in range(count):
        at = IMAGE_HEADER.size + number * IMAGE_SECTION.size
        kind, _, offset, length = struct.unpack_from(IMAGE_SECTION.format, image, at)
        found[kind] = (at, offset, length)
    return found


def header(name: str, value: int, size: int = 4) -> Callable[[bytearray], None]:
    def change(image: bytearray) -> None:
        at = IMAGE_HEADER.offset(name)
        image[at : at + size] = value.to_bytes(size, "little")

    return change


def table(section: Section, name: str, value: int, size: int = 8) -> Callable[[bytearray], None]:
    def change(image: bytearray) -> None:
        at = sections(image)[section][0] + IMAGE_SECTION.offset(name)
        image[at : at + size] = value.to_bytes(size, "little")

    return change


def entry(word: int, value: int) -> Callable[[bytearray], None]:
    """With a checksum that fits."""

    def change(image: bytearray) -> None:
        at, offset, length = sections(image)[Section.ENTRIES]
        struct.pack_into("<I", image, offset + 4 * word, value)
        struct.pack_into(
            "<I", image, at + 4, google_crc32c.value(bytes(image[offset : offset + length]))
        )

    return change


def flipped(section: Section) -> Callable[[bytearray], None]:
    def change(image: bytearray) -> None:
        image[sections(image)[section][1] + 1] ^= 4

    return change


def cut(image: bytearray) -> None:
    del image[-64:]


def emptied(image: bytearray) -> None:
    del image[50:]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (header("magic", 1), Status.BAD_IMAGE),
        (header("abi", 1, 2), Status.INCOMPATIBLE),
        (header("ti", 0, 2), Status.BAD_IMAGE),
        (header("ti", 16, 2), Status.INCOMPATIBLE),
        (header("to", 16, 2), Status.INCOMPATIBLE),
        (header("tp", 2, 2), Status.INCOMPATIBLE),
        (header("sections", 2), Status.BAD_IMAGE),
        (header("sections", 4), Status.BAD_IMAGE),
        (header("sections", 17), Status.BAD_IMAGE),
        (header("dram_bytes", BANK_BYTES - 4095, 8), Status.INCOMPATIBLE),
        (header("dram_bytes", 1 << 63, 8), Status.INCOMPATIBLE),
        (header("file_bytes", 64, 8), Status.BAD_IMAGE),
        (header("activation_buffer", 8 << 10), Status.INCOMPATIBLE),
        (header("weight_buffer", 16 << 10), Status.INCOMPATIBLE),
        (table(Section.CODE, "offset", 1 << 40), Status.BAD_IMAGE),
        (table(Section.CODE, "offset", 8), Status.BAD_IMAGE),
        (table(Section.CODE, "length", 1 << 40), Status.BAD_IMAGE),
        (table(Section.CODE, "length", (1 << 64) - 64), Status.BAD_IMAGE),
        (table(Section.CODE, "kind", 3, 4), Status.BAD_IMAGE),
        (table(Section.CODE, "kind", 77, 4), Status.BAD_IMAGE),
        (table(Section.WEIGHTS, "crc", 0, 4), Status.BAD_IMAGE),
        (entry(0, 0), Status.BAD_IMAGE),
        (entry(0, 65), Status.BAD_IMAGE),
        (entry(0, 1), Status.BAD_IMAGE),
        (entry(0, 3), Status.BAD_IMAGE),
        (entry(1, 1), Status.BAD_IMAGE),
        (entry(2, 0), Status.BAD_IMAGE),
        (entry(3, 3), Status.BAD_IMAGE),
        (entry(3, 0xFFFF_FFFF), Status.BAD_IMAGE),
        (entry(4, 4), Status.BAD_IMAGE),
        (entry(4, 0xFFFF_FFFF), Status.BAD_IMAGE),
        *((flipped(section), Status.BAD_IMAGE) for section in Section),
        (cut, Status.BAD_IMAGE),
        (emptied, Status.BAD_IMAGE),
    ],
)
def test_what_is_refused(change: Callable[[bytearray], None], status: Status) -> None:
    image = bytearray(serialize_image(made()))
    change(image)
    assert Load(bytes(image)).status is status


def test_an_image_without_code_is_incompatible() -> None:
    bare = replace(made(), code=b"", packed=b"", schedule=Schedule())
    assert Load(serialize_image(bare)).status is Status.INCOMPATIBLE


def test_what_the_host_does_not_map_and_what_the_link_changes() -> None:
    image = serialize_image(made())
    assert Load(image, fault=True).status is Status.BAD_ADDRESS
    assert Load(image, 7).status is Status.BAD_CRC
