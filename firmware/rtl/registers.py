"""The register file of BAR0, made from the contract's table.

No offset, width or reset value stands here: :mod:`edged.npu.regmap` has them. Its guards, who may
write to what, are not hardware's business but that of who hands out the card.
"""

from amaranth.hdl import Const, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from edged.npu.regmap import Access, Queue, Register, address_map

__all__ = ["Bus", "RegisterFile", "member"]

_IN_FORCE = (Queue.CONTROL,)
"""Registers that read back what is in force, not what was written."""


class Bus(wiring.Signature):
    """BAR0, word by word, as the host drives it. A request is taken in each cycle.

    Members
    -------
    valid: :py:`Out(1)`
        Asserted: there is a request.
    write: :py:`Out(1)`
        Asserted: it is a write; not asserted: a read.
    address: :py:`Out(16)`
        Offset in bytes, a multiple of 4.
    data: :py:`Out(32)`
        What is written.
    answer: :py:`In(32)`
        What was read, from the next cycle until the next read.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "write": Out(1),
                "address": Out(16),
                "data": Out(32),
                "answer": In(32),
            }
        )


def member(register: Register, index: int = 0) -> str:
    """Name of the attribute of :class:`RegisterFile` for a register of block number *index*."""
    block = type(register)
    number = f"{index}_" if block.count > 1 else ""
    return f"{block.__name__}_{number}{register.name}".lower()


def _is_kept(register: Register) -> bool:
    """Whether the file itself holds the value."""
    return register.access is Access.LOCK or (
        register.access is Access.RW and register not in _IN_FORCE
    )


def _is_event(register: Register) -> bool:
    return register.writable and not _is_kept(register)


def _is_read(register: Register) -> bool:
    return register.access not in (Access.COMMAND, Access.W1C)


class RegisterFile(wiring.Component):
    """Every register of a device with some capabilities.

    Parameters
    ----------
    capabilities:
        Bits of :class:`~edged.npu.regmap.Capability`: which blocks there are.

    Attributes
    ----------
    bus: Interface, in
        The host.
    soft, clear: Signal, in
        Strobes: give the registers that are kept here the values that the table has for a soft
        reset, or for the others.
    data: Signal(32), out
        What is written, with one of the strobes below.
    <register>: Signal
        The registers by their :func:`member` names: RW and locks are outputs, kept here, and
        others inputs, read as they are. Those that read as zero have none.
    <register>_write: Signal, out
        Strobe: the host writes to it; for doorbells, commands and acknowledgements.
    """

    def __init__(self, capabilities: int) -> None:
        self._words = address_map(capabilities)
        members = {
            "bus": In(Bus()),
            "soft": In(1),
            "clear": In(1),
            "data": Out(32),
        }
        for word in self._words.values():
            register, name = word.register, member(word.register, word.index)
            if _is_kept(register):
                members[name] = Out(register.bits, init=register.reset or 0)
            elif _is_read(register):
                members[name] = In(register.bits)
            if _is_event(register):
                members[f"{name}_write"] = Out(1)
        super().__init__(members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.data.eq(self.bus.data)
        answer = Signal(32)
        with m.If(self.bus.valid & ~self.bus.write):
            m.d.sync += self.bus.answer.eq(answer)
            with m.Switch(self.bus.address[2:]):
                for offset, word in self._words.items():
                    if _is_read(word.register):
                        with m.Case(offset // 4):
                            m.d.comb += answer.eq(self._word(offset))
        with m.If(self.bus.valid & self.bus.write), m.Switch(self.bus.address[2:]):
            for offset, word in self._words.items():
                if _is_event(word.register):
                    with m.Case(offset // 4):
                        m.d.comb += self[f"{self._name(offset)}_write"].eq(1)
                elif _is_kept(word.register):
                    with m.Case(offset // 4):
                        self._keep(m, offset)
        for strobe, soft in ((self.soft, True), (self.clear, False)):
            with m.If(strobe):
                for offset, word in self._words.items():
                    register, reset = word.register, word.register.reset
                    if _is_kept(register) and reset is not None and (register.soft or not soft):
                        m.d.sync += self._word(offset).eq(reset >> 32 * word.part & word.mask)
        return m

    def __getitem__(self, name: str) -> Value:
        return getattr(self, name)

    def _name(self, offset: int) -> str:
        word = self._words[offset]
        return member(word.register, word.index)

    def _word(self, offset: int) -> Value:
        """The part of a register that stands at an offset."""
        return self[self._name(offset)][32 * self._words[offset].part :][:32]

    def _keep(self, m: Module, offset: int) -> None:
        """Take a write to a register that is kept here."""
        word = self._words[offset]
        value = self._word(offset)
        may = Const(1)
        if word.register.takes:
            may = ~self[member(Queue.CONTROL, word.index)]
        elif word.register.access is Access.LOCK:
            may = (value == 0) | (self.data == 0)
        with m.If(may):
            m.d.sync += value.eq(self.data)
