"""The data path: tensors in, one run of the active program, tensors out."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edged.device._memory import DmaBuffer
from edged.device._ring import QueueTakenError, Ring, refusal
from edged.device._transport import Transport
from edged.errors import (
    DeadlineError,
    DeviceError,
    EdgedError,
    IncompatibleError,
    NotRunError,
    RequestError,
    UnavailableError,
)
from edged.npu import Entry, ProgramImage, Tensor
from edged.npu.registers import (
    BANKS,
    QUEUE_DATA,
    Bank,
    Completion,
    Descriptor,
    DescriptorFlag,
    Operation,
    Reg,
    Status,
    bank_offset,
)

__all__ = ["InferenceQueue"]

_IOVA: Final = 1 << 32
_ALIGN: Final = 4096
_MOST_DRAM: Final = 1 << 48
"""Bytes of DRAM that no card has: an address beyond is a lie."""
_RUNS_QUEUED: Final = 2
"""The one that the device is at, and the one that it goes on with while we see to the answer."""


@dataclass(slots=True, eq=False)
class _Passage:
    """How a run of one entry uses a place in the shared memory.

    Attributes:
        inputs, outputs: views of it, one for each tensor.
        offsets: where these are in it: inputs, then outputs.
        operations: what a run submits, in order.
        packed: the same as descriptors.
    """

    inputs: list[npt.NDArray[Any]]
    outputs: list[npt.NDArray[Any]]
    offsets: list[int]
    operations: list[Operation] = field(default_factory=list)
    packed: list[bytes] = field(default_factory=list)


_Place = list[_Passage]
"""Memory for the tensors of one run, whichever entry it is of."""


@dataclass(frozen=True, slots=True)
class _Failure:
    """How a run failed.

    Attributes:
        begun: the device may have been at it.
    """

    operation: Operation
    status: int
    begun: bool

    def error(self) -> EdgedError:
        error = refusal("run", self.operation, self.status)
        if self.status in (Status.FAULT, Status.NO_IMAGE):
            # Not the run's doing, or not likely to be: whoever manages the device resets it.
            return _not_run(str(error))
        if self.status == Status.ABORTED:
            # If it was begun, it may have hung, and may again.
            text = f"{error}; it is being reset, try again in a second"
            return UnavailableError(text) if self.begun else NotRunError(text)
        if self.status == Status.TIMEOUT:
            return DeviceError(f"{error}: the run took longer than the device's watchdog allows")
        return error


class InferenceQueue:
    """Runs the program that is active on the device, over the data queue. Thread-safe.

    The device does one run after the other, since a program has one set of tensors in DRAM. Two
    threads may have theirs in its ring, each with memory of its own: when the first is done, the
    device goes on with the second before anyone here has noticed.

    Args:
        transport: an opening of the device, owned from here on, and closed if this fails.
        image: the program that has to be the active one; only its digest, and the inputs and
            outputs of its entries are used.
        timeout: seconds that a run may take, unless the call says otherwise.
        take: whether to take the queue at once. Otherwise everything is made ready that may be
            while someone else has it, and :meth:`take` does the rest.

    Raises:
        IncompatibleError: another program is active.
        DeviceError: the queue belongs to another opening.
        DeviceLostError: the device is gone.
    """

    def __init__(
        self,
        transport: Transport,
        image: ProgramImage,
        *,
        timeout: float = 10.0,
        take: bool = True,
    ) -> None:
        self._transport = transport
        self._image = image
        self._timeout = timeout
        self._submitting = threading.Lock()
        self._last = threading.Event()
        self._last.set()
        self._stale = False
        self._starts = 0
        self._faulted = -1  # the start in which the device failed, and so ran nothing afterwards
        self._taken = False
        self._lost = False
        self._places: queue.SimpleQueue[_Place] = queue.SimpleQueue()
        try:
            log2_size, places, size = _layout(image)
            self._memory = DmaBuffer(transport, _IOVA, size)
            self._all = [self._place(start) for start in places]
            for place in self._all:
                self._places.put(place)
            self._ring = Ring(transport, QUEUE_DATA, self._memory, log2_size, start=False)
        except BaseException:
            transport.close()
            raise
        if take:
            self.take()

    def take(self) -> None:
        """Take the queue, which nobody else may have any more. If this fails, it is closed.

        Raises:
            IncompatibleError: another program is active.
            DeviceError: the queue belongs to another opening.
            DeviceLostError: the device is gone.
        """
        try:
            self._find_program()
            self._ring.start()
        except BaseException:
            self.close()
            raise
        self._taken = True

    def run(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        timeout: float | None = None,
        *,
        entry: int = 0,
        on_turn: Callable[[], None] = lambda: None,
    ) -> list[npt.NDArray[Any]]:
        """Run once.

        Args:
            inputs: one array per input of the entry, [H, W, C] or [1, H, W, C], u8 or s8 as the
                image says.
            entry: number of the entry.
            timeout: seconds, from when the device has done what came before.
            on_turn: is called when there is a place in the ring; what it raises is raised here, and
                nothing is run.

        Returns:
            One array per output, [1, H, W, C], u8 or s8.

        Raises:
            RequestError: number, shape or dtype of the inputs.
            DeadlineError: the device did not answer in time; the run was aborted.
            DeviceError: the device answered with another status than OK.
            NotRunError: it is being reset, and did not run this.
            UnavailableError: the run was cut short by a reset.
            DeviceLostError: the device is gone.
        """
        tensors = self._image.chosen(self._image.entries[entry].inputs)
        if len(inputs) != len(tensors):
            raise RequestError(f"cannot run: {len(inputs)} inputs given, wanted {len(tensors)}")
        for tensor, value in zip(tensors, inputs, strict=True):
            _check(tensor, value)
        timeout = self._timeout if timeout is None else timeout
        place = self._places.get()
        try:
            on_turn()
            passage = place[entry]
            for view, value in zip(passage.inputs, inputs, strict=True):
                np.copyto(view, value)
            failure = self._execute(passage, timeout)
            if failure is not None and failure.status == Status.BAD_CRC:
                # An error on the link. A run has no effect but its outputs: it is done again.
                failure = self._execute(passage, timeout)
            if failure is not None:
                raise failure.error()
            return [view.copy() for view in passage.outputs]
        finally:
            self._places.put(place)

    def close(self) -> None:
        """Give the queue back and close the connection; a run in another thread fails."""
        self._lost = True
        if self._taken:
            self._ring.release()
        self._transport.close()
        with self._submitting:
            last = self._last  # Who submits from now on hears that the transport is closed.
        last.wait()
        self._ring.close()

    def _execute(self, run: _Passage, timeout: float) -> _Failure | None:
        """Run; what failed first, if anything did."""
        while True:
            before, ours, start = self._submit(run)
            try:
                before.wait()
                completions = self._completions(run, start, timeout)
                if completions is not None:
                    return self._failure(run, completions, start)
            finally:
                ours.set()

    def _failure(
        self, run: _Passage, completions: Sequence[Completion], start: int
    ) -> _Failure | None:
        for operation, completion in zip(run.operations, completions, strict=True):
            if completion.status == Status.OK:
                continue
            begun = operation is not run.operations[0] and self._faulted != start
            if completion.status in (Status.TIMEOUT, Status.FAULT):
                self._faulted = start
            return _Failure(operation, completion.status, begun)
        return None

    def _submit(self, run: _Passage) -> tuple[threading.Event, threading.Event, int]:
        """Queue a run.

        Returns:
            what is set when the run before it is over, what to set when this one is, and which
            start of the ring it was queued in.
        """
        with self._submitting:
            if not self._taken:
                raise DeviceError("cannot run: the data queue was not taken yet")
            if self._lost:
                raise _not_run("cannot run: the data queue was taken away")
            if self._stale:
                # Abort the run that was given up: nothing may write into the buffers later.
                try:
                    self._ring.start()
                except QueueTakenError as error:
                    raise self._taken_away(error) from error
                self._starts += 1
                try:
                    self._find_program()
                except DeviceError as error:
                    raise _not_run(
                        f"cannot run: the device was reset meanwhile ({error})"
                    ) from error
                self._stale = False
            try:
                self._ring.submit(run.packed)
            except BaseException:
                self._stale = True
                raise
            before, self._last = self._last, threading.Event()
            return before, self._last, self._starts

    def _completions(self, run: _Passage, start: int, timeout: float) -> list[Completion] | None:
        """Those of *run*, whose turn it is; None when it was aborted with another."""
        with self._submitting:
            if self._stale or start != self._starts:
                return None
        try:
            return self._ring.wait(time.monotonic() + timeout, len(run.packed))
        except QueueTakenError as error:
            raise self._taken_away(error) from error
        except DeadlineError as error:
            self._stale = True
            raise DeadlineError(
                f"cannot run: the device did not finish within {timeout:g} s"
            ) from error
        except BaseException:
            self._stale = True
            raise

    def _taken_away(self, error: QueueTakenError) -> NotRunError:
        """The queue is not ours to be enabled again: whoever took it gives it to the next."""
        self._lost = True
        return _not_run(str(error))

    def _find_program(self) -> None:
        """Where in DRAM the tensors of the active program are, which has to be ours."""
        base = _active_base(self._transport, self._image)
        for place in self._all:
            for number, each in enumerate(place):
                each.operations, each.packed = _program(self._image, number, each.offsets, base)

    def _place(self, start: int) -> _Place:
        return [self._passage(entry, start) for entry in self._image.entries]

    def _passage(self, entry: Entry, start: int) -> _Passage:
        offsets, _ = _offsets(self._image, entry, start)
        views = self._views(_moved(self._image, entry), offsets)
        inputs = len(entry.inputs)
        return _Passage(views[:inputs], views[inputs:], offsets)

    def _views(self, tensors: Sequence[Tensor], offsets: Sequence[int]) -> list[npt.NDArray[Any]]:
        return [
            self._memory.array(offset, (1, *tensor.shape), tensor.dtype.numpy)
            for tensor, offset in zip(tensors, offsets, strict=True)
        ]


def _layout(image: ProgramImage) -> tuple[int, list[int], int]:
    """Where things stand in the shared memory.

    Returns:
        The ring's size as a power of two; where the place of each run begins that may be queued;
        the size of all.
    """
    descriptors = 1 + max(len(_moved(image, entry)) for entry in image.entries)
    log2_size = (_RUNS_QUEUED * descriptors - 1).bit_length()
    end = Ring.bytes_for(log2_size)
    places: list[int] = []
    for _ in range(_RUNS_QUEUED):
        places.append(end)
        end = max(_offsets(image, entry, end)[1] for entry in image.entries)
    return log2_size, places, end


def _moved(image: ProgramImage, entry: Entry) -> tuple[Tensor, ...]:
    """What goes in, and then what comes out."""
    return image.chosen((*entry.inputs, *entry.outputs))


def _offsets(image: ProgramImage, entry: Entry, start: int) -> tuple[list[int], int]:
    """Where in the shared memory its tensors are from *start* on, and where they end."""
    offsets, end = [], start
    for tensor in _moved(image, entry):
        end = -(-end // _ALIGN) * _ALIGN
        offsets.append(end)
        end += tensor.nbytes
    return offsets, end


def _program(
    image: ProgramImage, number: int, offsets: Sequence[int], base: int
) -> tuple[list[Operation], list[bytes]]:
    """What one run submits: inputs in, RUN, outputs out. The last one interrupts."""

    def move(op: Operation, tensor: Tensor, offset: int) -> Descriptor:
        return Descriptor(
            op,
            length=tensor.nbytes,
            host_address=_IOVA + offset,
            device_address=base + tensor.address,
        )

    entry = image.entries[number]
    n = len(entry.inputs)
    descriptors = [
        *map(partial(move, Operation.DMA_IN), image.chosen(entry.inputs), offsets[:n]),
        Descriptor(Operation.RUN, device_address=number),
        *map(partial(move, Operation.DMA_OUT), image.chosen(entry.outputs), offsets[n:]),
    ]
    descriptors[-1] = replace(descriptors[-1], flags=DescriptorFlag.INTERRUPT)
    return [Operation(each.op) for each in descriptors], [each.pack() for each in descriptors]


def _check(tensor: Tensor, value: npt.NDArray[Any]) -> None:
    shapes = (tensor.shape, (1, *tensor.shape))
    if value.shape not in shapes or value.dtype != tensor.dtype.numpy:
        raise RequestError(
            f"cannot run: input {tensor.name!r} is {value.dtype} {list(value.shape)},"
            f" wanted {tensor.dtype.numpy} {list(shapes[1])}"
        )


def _not_run(why: str) -> NotRunError:
    return NotRunError(f"{why}; it is being reset, try again in a second")


def _active_base(transport: Transport, image: ProgramImage) -> int:
    """Device address of the active bank, which has to hold *image*."""
    active = transport.region_read(Reg.ACTIVE_BANK)
    if active >= BANKS:
        raise DeviceError("cannot open the data queue: no bank is active; activate one first")
    digest = b"".join(
        transport.region_read(bank_offset(active, Bank.DIGEST) + at, 8).to_bytes(8, "little")
        for at in range(0, Bank.DIGEST.nbytes, 8)
    )
    if digest != image.digest:
        raise IncompatibleError(
            f"cannot open the data queue: bank {active} is active with program"
            f" {digest.hex()[:16]}…, wanted {image.digest.hex()[:16]}…"
        )
    base = transport.region_read(bank_offset(active, Bank.BASE), 8)
    if base >= _MOST_DRAM:
        raise DeviceError(
            f"cannot open the data queue: bank {active} is said to begin at {base:#x}"
        )
    return base
