"""One memory for several users, one at a time."""

from functools import reduce

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Claimed", "Sharing"]


class Claimed(wiring.Signature):
    """A memory, as one of several users drives it.

    Parameters
    ----------
    memory:
        Signature of the memory.

    Members
    -------
    claim: :py:`Out(1)`
        Asserted while the user needs the memory: from before its first request until it has got
        what it asked for, and what it wrote is ``written``. Before the others have let go of it
        nothing is accepted, and ``written`` is not asserted.
    memory: :py:`Out(memory)`
    """

    def __init__(self, memory: wiring.Signature) -> None:
        super().__init__({"claim": Out(1), "memory": Out(memory)})


class Sharing(wiring.Component):
    """Gives a memory to who claims it, in turns.

    Parameters
    ----------
    memory:
        Signature of the memory.
    users:
        How many there are.

    Attributes
    ----------
    memory: Interface, out
        What is shared.
    users: list of Interface, in
        As :class:`Claimed` has it.
    user: Signal, out
        Number of the one that has it.
    """

    def __init__(self, memory: wiring.Signature, users: int) -> None:
        self._count = users
        super().__init__(
            {
                "memory": Out(memory),
                "users": In(Claimed(memory)).array(users),
                "user": Out(range(users)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        with m.Switch(self.user):
            for number in range(self._count):
                with m.Case(number), m.If(~self.users[number].claim):
                    # The last assignment counts: the nearest one that claims it.
                    for step in range(self._count - 1, 0, -1):
                        other = (number + step) % self._count
                        with m.If(self.users[other].claim):
                            m.d.sync += self.user.eq(other)
        has = Signal(self._count)
        m.d.comb += has.eq(Cat(user.claim for user in self.users) & (1 << self.user))
        for path, member, shared in self.memory.signature.flatten(self.memory):
            each = [reduce(getattr, path, user.memory) for user in self.users]
            # What goes with a strobe needs no gate of its own: they are wide.
            is_strobe = path[-1] != "payload"
            if member.flow is In:
                for number, mine in enumerate(each):
                    m.d.comb += mine.eq(shared & has[number] if is_strobe else shared)
                continue
            with m.Switch(self.user):
                for number, mine in enumerate(each):
                    with m.Case(number):
                        m.d.comb += shared.eq(mine & has[number] if is_strobe else mine)
        return m
