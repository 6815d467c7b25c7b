"""How many cycles a gateware takes for the code of an image, and what bounds each layer.

Each unit executes its instructions one after the other, the three of them side by side, as far as
tokens let them:

- LOAD and STORE move a chunk of up to 64 bytes of one pixel a cycle, for one lane after the other.
  DRAM moves beats of 64 bytes, each once for pixels that follow each other: a chunk that lies in
  two beats takes a cycle for each that was not there. LOAD_WEIGHTS takes a cycle for each beat,
  LOAD_MATRIX for each row.
- The banks have one port at which the execute unit writes, or else a chunk is stored or loaded;
  one that meets a word that is written takes a cycle more.
- DRAM moves 51 of 64 bytes a cycle, of both units together, and answers 64 cycles after it was
  asked. The load unit asks for the beats of its next instructions while those of the first are on
  their way. When STORE gives a token to the load unit, its data has reached DRAM.
- CONV takes a cycle for each word of weights, or as many as the result has words if these are
  more, and one for the parameters of a block. DEPTHWISE, POOL and VECTOR take one for each word
  that they read. TABLE fills its table first.

Instructions are fetched two a cycle, and wait in queues of 16.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edged.npu import ProgramImage
from edged.npu.instructions import INSTRUCTION_BYTES, Instruction, Opcode, Unit, unit_of
from edged.scheduler._costs import Costs, Work
from edged.scheduler._rates import BEAT, DRAM_BYTES, LATENCY, MEETS, QUEUE

__all__ = ["LayerCycles", "measure"]


@dataclass(frozen=True, slots=True)
class LayerCycles:
    """What a layer takes.

    Attributes:
        cycles: from the end of the layer before it to its own.
        array: cycles of it in which the array multiplies.
        load, execute, store: cycles that each unit needs for its instructions.
        port: cycles in which the banks' port is used.
        read, written: bytes of the beats that DRAM moves.
        instructions: how many.
    """

    cycles: int
    array: int
    load: int
    execute: int
    store: int
    port: int
    read: int
    written: int
    instructions: int

    @property
    def bound(self) -> str:
        """What takes most of the time: array, elements (the unit for them), dram, banks (their
        port), or dependencies, where units wait for each other."""
        parts = {
            "array" if self.array > 0.5 * self.execute else "elements": self.execute,
            "dram": max(self.load, self.store, (self.read + self.written) // DRAM_BYTES),
            "banks": self.port,
        }
        longest = max(parts, key=lambda name: parts[name])
        return longest if parts[longest] > 0.7 * self.cycles else "dependencies"


def measure(
    image: ProgramImage, layers: Sequence[Sequence[int]], entry: int = 0
) -> list[LayerCycles]:
    """The cycles of each layer of an *entry* of *image*, which has code.

    Args:
        layers: of each entry, the first instruction of each of its layers.
    """
    begins = [begin - image.entries[entry].instruction for begin in layers[entry]]
    works = list(_works(image, entry))
    ends = _ends(works)
    found = []
    before = 0
    for begin, end in zip(begins, [*begins[1:], len(works)], strict=True):
        part = works[begin:end]
        after = max([before, *ends[begin:end]])
        busy = {unit: sum(w.cycles for w in part if w.unit is unit) for unit in Unit}
        beats = {unit: sum(w.beats for w in part if w.unit is unit) for unit in Unit}
        found.append(
            LayerCycles(
                cycles=after - before,
                array=sum(work.array for work in part),
                load=busy[Unit.LOAD],
                execute=busy[Unit.EXECUTE],
                store=busy[Unit.STORE],
                port=sum(work.words for work in part),
                read=BEAT * beats[Unit.LOAD],
                written=BEAT * beats[Unit.STORE],
                instructions=len(part),
            )
        )
        before = after
    return found


def _works(image: ProgramImage, entry: int) -> Iterator[Work]:
    """What each instruction takes, up to END."""
    costs = Costs(image.array)
    at = image.entries[entry].instruction * INSTRUCTION_BYTES
    while True:
        instruction = Instruction.unpack(image.code[at : at + INSTRUCTION_BYTES])
        yield costs.of(instruction, unit_of(instruction.op))
        if instruction.op is Opcode.END:
            return
        at += INSTRUCTION_BYTES


@dataclass(slots=True)
class _Going:
    """An instruction that a unit executes.

    Attributes:
        wait, left: cycles before it moves or computes, and of that.
        demand: bytes of DRAM in each cycle in which it moves.
        port: part of these cycles in which it uses the port of the banks.
    """

    at: int
    wait: float
    left: float
    demand: float
    port: float


def _ends(works: Sequence[Work]) -> list[int]:
    """The cycle in which each instruction ends."""
    ends = [0] * len(works)
    queues: dict[Unit, list[int]] = {unit: [] for unit in Unit}
    tokens = {(giver, taker): 0 for giver in Unit for taker in Unit}
    going: dict[Unit, _Going] = {}
    asked: dict[int, float] = {}  # when the beats of a load were, while the one before went on
    now, fetched = float(LATENCY), 0
    while True:
        fetched = _fetch(works, fetched, queues)
        for unit, queue in queues.items():
            if unit not in going and queue and _granted(tokens, works[queue[0]]):
                work = works[queue[0]]
                for giver in work.waits:
                    tokens[giver, unit] -= 1
                wait = float(work.before)
                if queue[0] in asked:
                    wait = max(wait - (now - asked[queue[0]]), min(wait, _LANDING))
                going[unit] = _Going(
                    queue[0], wait, work.cycles - work.before, work.demand, work.port
                )
        if Unit.LOAD in going:
            for at in _next_loads(works, queues[Unit.LOAD], tokens):
                asked.setdefault(at, now)
        if not going:
            if fetched >= len(works):
                return ends
            now += LATENCY  # SYNC, or END: what was stored reaches DRAM.
            ends[fetched] = int(now)
            fetched += 1
            continue
        rates = _rates(going)
        step = min(_next(each, rates[unit]) for unit, each in going.items())
        now += step
        for unit, each in list(going.items()):
            if each.wait > 0:
                each.wait -= step
            else:
                each.left -= step * rates[unit]
            if each.wait <= _LITTLE and each.left <= _LITTLE:
                work = works[each.at]
                ends[each.at] = int(now)
                for taker in work.signals:
                    tokens[unit, taker] += 1
                queues[unit].pop(0)
                del going[unit]


_LITTLE = 1e-6
_LEAST = 0.01
_LANDING = 6
"""Cycles of a load in which nothing moves, if its beats were asked for in time."""


def _fetch(works: Sequence[Work], fetched: int, queues: dict[Unit, list[int]]) -> int:
    """Put instructions into queues up to one that has no room, or has to wait for all."""
    while fetched < len(works):
        unit = works[fetched].unit
        if unit is None or len(queues[unit]) == QUEUE:
            break
        queues[unit].append(fetched)
        fetched += 1
    return fetched


def _next_loads(
    works: Sequence[Work], queue: Sequence[int], tokens: dict[tuple[Unit, Unit], int]
) -> Iterator[int]:
    """Those behind the first in the *queue* that need not wait for a token."""
    left = dict(tokens)
    for at in queue[1:]:
        work = works[at]
        if not _granted(left, work):
            return
        for giver in work.waits:
            left[giver, Unit.LOAD] -= 1
        yield at


def _granted(tokens: dict[tuple[Unit, Unit], int], work: Work) -> bool:
    return all(tokens[giver, work.unit] for giver in work.waits if work.unit is not None)


def _next(each: _Going, rate: float) -> float:
    """Cycles until it is done with waiting, or with all."""
    return each.wait if each.wait > _LITTLE else each.left / rate


def _rates(going: dict[Unit, _Going]) -> dict[Unit, float]:
    """How fast each unit gets on, 1 at most: what they want of DRAM, and of the port of the banks,
    may be too much together."""
    rates = dict.fromkeys(going, 1.0)
    wants = {
        unit: each.demand for unit, each in going.items() if each.demand and each.wait <= _LITTLE
    }
    # Each gets what it wants up to its share; who wants less leaves the rest.
    room = float(DRAM_BYTES)
    for number, unit in enumerate(sorted(wants, key=lambda unit: wants[unit])):
        share = room / (len(wants) - number)
        given = min(wants[unit], share)
        rates[unit] = given / wants[unit]
        room -= given
    # Who executes writes first, then the store unit reads, and then the load unit writes.
    free = 1.0
    for unit in (Unit.EXECUTE, Unit.STORE, Unit.LOAD):
        each = going.get(unit)
        if each is not None and each.port and each.wait <= _LITTLE:
            rates[unit] = min(rates[unit], max(free, _LEAST) / each.port)
            used = rates[unit] * each.port
            # A chunk goes on beside a word that is written, but for one part, which follows.
            free = 1 / (1 + MEETS * used) if unit is Unit.EXECUTE else free - used
    return rates
