"""Every register behaves as the contract's table says, on each kind of device.

What is checked is made from ``edged/npu/regmap.py``: a register that is added there is tested here.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from edged.device import Device
from edged.errors import DeviceError
from edged.npu.regmap import (
    BAR0_SIZE,
    BLOCKS,
    QUEUE_DATA,
    QUEUE_MANAGEMENT,
    Access,
    Bank,
    Command,
    Flash,
    FlashCommand,
    Guard,
    Queue,
    Reg,
    Register,
    ResetCause,
    State,
    Word,
    address_map,
)

MOVING = (Reg.CYCLES, Reg.TEMPERATURE_MC, Reg.POWER_MW)
"""What changes by itself."""
ONES = 0xFFFF_FFFF


@pytest.fixture
def transport(served: Any) -> Iterator[Any]:
    with contextlib.closing(served.transport()) as transport:
        yield transport


def words(transport: Any) -> dict[int, Word]:
    return address_map(transport.region_read(Reg.CAPABILITIES))


def registers(transport: Any) -> list[tuple[int, Register]]:
    """Each register once for each block that it is in, by its offset in BAR 0."""
    return [(at, word.register) for at, word in words(transport).items() if word.part == 0]


def value(transport: Any, at: int, register: Register) -> int:
    return int(transport.region_read(at, register.nbytes))


def dirty(served: Any, program: Callable[..., Any]) -> None:
    """Have as many registers as can be hold something else than their reset value."""
    made = program()
    device = served.device()
    device.load(made.data, 0)
    device.activate(0)
    queue = served.queue(made.image)
    queue.run(made.inputs)
    queue.close()
    device.set_watchdog(60_000)
    device._transport.region_write(Reg.SCRATCH, 0x5EED)
    device.close()


def left_over(transport: Any, *, soft: bool) -> list[str]:
    """Registers that a reset has not given the value that the table says."""
    return [
        f"{register!r} at {at:#x}: {value(transport, at, register):#x}"
        for at, register in registers(transport)
        if register.reset is not None and (register.soft or not soft)
        if value(transport, at, register) != register.reset
    ]


def test_the_table_reaches_every_register_that_a_driver_reads(transport: Any) -> None:
    for at, register in registers(transport):
        found = value(transport, at, register)
        assert found >> register.bits == 0, f"{register!r} has {found:#x}, beyond {register.bits}"


def test_a_function_level_reset_gives_the_reset_values(
    served: Any, program: Callable[..., Any]
) -> None:
    dirty(served, program)
    with contextlib.closing(served.transport()) as transport:
        transport.region_write(Queue.RING_BASE.address(QUEUE_DATA), 1 << 32, 8)
        transport.region_write(Queue.LOG2_SIZE.address(QUEUE_DATA), 5)
        transport.region_write(Bank.OWNER.address(1), 77)
        transport.region_write(Reg.INTERRUPT_ENABLE, 7)
        assert len(left_over(transport, soft=False)) > 8, "too little was dirty to tell"
        transport.reset()
        assert left_over(transport, soft=False) == []
        assert transport.region_read(Reg.RESET_CAUSE) == ResetCause.FUNCTION_LEVEL


def test_a_soft_reset_keeps_what_the_table_says(served: Any, program: Callable[..., Any]) -> None:
    dirty(served, program)
    device: Device = served.device()
    device.soft_reset()
    device.close()
    with contextlib.closing(served.transport()) as transport:
        assert left_over(transport, soft=True) == []
        assert transport.region_read(Reg.RESET_CAUSE) == ResetCause.SOFT
        assert transport.region_read(Reg.SCRATCH) == 0x5EED
        assert transport.region_read(Reg.WATCHDOG_MS) == 60_000
        assert transport.region_read(Reg.BUSY_CYCLES, 8) > 0


def test_read_only_registers_ignore_writes(transport: Any) -> None:
    for at, word in words(transport).items():
        if not word.register.writable and word.register not in MOVING:
            before = transport.region_read(at)
            transport.region_write(at, before ^ ONES)
            assert transport.region_read(at) == before, repr(word.register)


def test_commands_and_acknowledgements_read_as_zero(transport: Any) -> None:
    for at, register in registers(transport):
        if register.access in (Access.COMMAND, Access.W1C):
            assert value(transport, at, register) == 0, repr(register)


def test_unassigned_offsets_read_as_zero_and_ignore_writes(transport: Any) -> None:
    assigned = words(transport)
    free = [at for at in range(0, BAR0_SIZE, 4) if at not in assigned]
    near = [at for at in free if {at - 4, at + 4} & assigned.keys()]
    for at in {*near, *random.Random(1).sample(free, 50)}:
        transport.region_write(at, ONES)
        assert transport.region_read(at) == 0, hex(at)


def test_a_block_reads_as_its_registers_do(transport: Any) -> None:
    for block in BLOCKS[1:3]:
        size = max(register + register.nbytes for register in block)
        for index in range(block.count):
            whole = transport.region_read(block.base + index * block.stride, size)
            for register in block:
                part = whole >> 8 * register & (1 << 8 * register.nbytes) - 1
                assert part == value(transport, register.address(index), register)


def test_wide_registers_are_written_whole_and_by_halves(transport: Any) -> None:
    at = Queue.RING_BASE.address(QUEUE_DATA)
    transport.region_write(at, 0x1234_5678_9ABC_DEC0, 8)
    assert transport.region_read(at, 8) == 0x1234_5678_9ABC_DEC0
    transport.region_write(at, 0x11)
    transport.region_write(at + 4, 0x22)
    assert transport.region_read(at, 8) == 0x22_0000_0011
    transport.region_write(Queue.CONTROL.address(QUEUE_DATA), 0)


# Guards


def refused(transport: Any, at: int, written: int) -> bool:
    try:
        transport.region_write(at, written)
    except DeviceError as error:
        if not re.search("EBUSY|another opening", str(error)):
            raise
        return True
    return False


def guarded(transport: Any) -> list[tuple[int, Word, int, Guard]]:
    """What may be written where, and by whom."""
    return [
        (at, word, written, word.register.guard_of.get(written, word.register.guard))
        for at, word in words(transport).items()
        if word.register.writable
        for written in (0, 1, *word.register.guard_of)
    ]


def test_a_stranger_may_write_what_is_anyones(served: Any, program: Callable[..., Any]) -> None:
    """While one opening manages the device, and another has the data queue."""
    made = program()
    manager = served.device()
    manager.load(made.data, 0)
    manager.activate(0)
    with (
        contextlib.closing(served.queue(made.image)) as queue,
        contextlib.closing(served.transport()) as stranger,
    ):
        wrong = [
            f"{word.register!r} {written}: {guard}"
            for at, word, written, guard in guarded(stranger)
            if refused(stranger, at, written) != (guard is not Guard.ANYONE)
        ]
        assert wrong == []
        with pytest.raises(DeviceError, match=r"EBUSY|another opening"):
            stranger.reset()
        assert manager.state() is State.READY
        queue.run(made.inputs)  # nothing of it came through
    manager.close()


def test_without_a_manager_only_the_flash_is_nobodys(transport: Any) -> None:
    """And a free queue is taken by setting it up, not by using it."""
    expected = {
        Guard.ANYONE: lambda _: False,
        Guard.MANAGER: lambda _: False,
        Guard.OWNER_OR_MANAGER: lambda _: False,
        Guard.SOLE_MANAGER: lambda _: True,
        Guard.OWNER: lambda register: not register.takes,
    }
    for at, word, written, guard in guarded(transport):
        register = word.register
        if isinstance(register, Flash) and written in (FlashCommand(3), FlashCommand(4)):
            continue  # would boot
        if register is Reg.COMMAND and written == Command.SOFT_RESET:
            continue
        assert refused(transport, at, written) == expected[guard](register), (register, written)
        if register.takes:
            transport.region_write(Queue.CONTROL.address(word.index), 0)


def test_a_bank_is_locked_by_one(served: Any, transport: Any) -> None:
    lock = Bank.OWNER.address(1)
    with contextlib.closing(served.transport()) as other:
        transport.region_write(lock, 5)
        for written in (7, 0):
            other.region_write(lock, written)
            assert transport.region_read(lock) == 5
        transport.region_write(lock, 6)
        assert transport.region_read(lock) == 5, "a lock is taken when it is free"
        transport.region_write(lock, 0)
        other.region_write(lock, 7)
        assert transport.region_read(lock) == 7
    with contextlib.closing(served.transport()) as third:
        while third.region_read(lock):
            pass  # freed once the device sees that its holder is gone
        third.region_write(lock, 9)
        assert third.region_read(lock) == 9


def test_who_manages_may_take_a_queue_away(served: Any) -> None:
    control = Queue.CONTROL.address(QUEUE_DATA)
    ring = Queue.RING_BASE.address(QUEUE_DATA)
    manager = served.device()
    with (
        contextlib.closing(served.transport()) as owner,
        contextlib.closing(served.transport()) as other,
    ):
        owner.region_write(ring, 1 << 32, 8)
        assert refused(other, ring, 0)
        assert refused(other, control, 0)
        manager._transport.region_write(control, 0)
        assert not refused(other, ring, 0)
        assert refused(owner, ring, 0)
        assert refused(owner, Queue.CONTROL.address(QUEUE_MANAGEMENT), 0)
    manager.close()
