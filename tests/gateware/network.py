"""One network on the gateware's core, as Verilator simulates it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from networks.network import Network

from edged._pipeline import Pipeline
from edged.compiler import compile_model
from edged.emulator import in_process
from edged.npu import Entry, Layer, ProgramImage, Target, numerics
from edged.npu.instructions import INSTRUCTION_BYTES
from edged.scheduler import Scheduled, scheduled
from edged.scheduler.timing import LayerCycles, measure
from firmware.rtl.parameters import Parameters
from firmware.tests.machine import Machine, Outcome, Program

__all__ = ["LayerResult", "Result", "run"]

_Arrays = Sequence[npt.NDArray[Any]]
_MOST_CYCLES = 1 << 28


@dataclass(frozen=True)
class LayerResult:
    """One layer by itself, with the inputs that it has in the network.

    Attributes:
        wrong: bytes of its output that are not the reference's.
        cycles: counted.
        modelled: by the cycle model.
    """

    name: str
    op: str
    wrong: int
    cycles: int
    modelled: int
    array: int
    bound: str


@dataclass(frozen=True)
class Result:
    """A whole network.

    Attributes:
        macs: multiply-accumulates of one run.
        wrong: bytes of outputs that are not the emulator's.
        cycles, array: counted, of one run: all, and those in which the array multiplied.
        modelled: by the cycle model.
        read, written: bytes of DRAM.
        seconds: processor time of the simulation of one run.
        layers: each by itself, where that was asked for.
    """

    name: str
    macs: int
    instructions: int
    wrong: int
    cycles: int
    array: int
    modelled: int
    read: int
    written: int
    seconds: float
    layers: tuple[LayerResult, ...]

    @property
    def hertz(self) -> float:
        """Simulated cycles a second of processor time."""
        return self.cycles / self.seconds


def run(
    network: Network,
    machine: Machine,
    by_layer: bool,
    progress: Callable[[str], None],
) -> Result:
    """Compile *network*, run it whole, and each of its layers by itself if *by_layer*."""
    parameters = machine.parameters
    progress("compiling")
    compiled = compile_model(
        network.model(),
        target=Target(parameters.array),
        calibration=network.calibration(),
        shapes=network.shapes,
    )
    made = _scheduled(compiled.image, parameters)
    wrong = cycles = array = modelled = read = written = 0
    seconds = 0.0
    layers: list[LayerResult] = []
    calls = _calls(compiled.image, compiled.host, next(iter(network.cases().values())))
    for entry, inputs, outputs in calls:
        progress(f"simulating entry {entry}")
        begin = time.process_time()
        outcome, found = _run(machine, made.image, entry, inputs)
        seconds += time.process_time() - begin
        wrong += sum(map(_differ, found, outputs))
        cycles += outcome.cycles
        array += outcome.array
        read += outcome.read * 64
        written += outcome.written * 64
        modelled += sum(layer.cycles for layer in measure(made.image, made.layers, entry))
        if by_layer:
            layers += _layers(machine, compiled.image, entry, inputs, progress)
    return Result(
        network.name,
        compiled.image.macs(),
        len(made.image.code) // INSTRUCTION_BYTES,
        wrong,
        cycles,
        array,
        modelled,
        read,
        written,
        seconds,
        tuple(layers),
    )


def _scheduled(image: ProgramImage, parameters: Parameters) -> Scheduled:
    return scheduled(image, parameters.activation_buffer, parameters.weight_buffer)


def _calls(
    image: ProgramImage, host: tuple[bytes, ...], sample: Any
) -> list[tuple[int, _Arrays, _Arrays]]:
    """What the emulator is asked for one sample, and what it answers: entry, inputs, outputs."""
    device = in_process(image)
    made: list[tuple[int, _Arrays, _Arrays]] = []

    def asked(entry: int, inputs: _Arrays) -> Any:
        outputs = device(entry, inputs)
        made.append((entry, [np.array(x[0]) for x in inputs], [np.array(x[0]) for x in outputs]))
        return outputs

    Pipeline(image, host).run(dict(sample), asked)
    return made


def _run(
    machine: Machine, image: ProgramImage, entry: int, inputs: _Arrays
) -> tuple[Outcome, list[npt.NDArray[Any]]]:
    """An entry on the core, and its outputs."""
    program = image.entries[entry]
    dram = np.zeros(-(-image.dram_bytes // 64) * 64, np.uint8)
    for tensor, value in zip(image.chosen(program.inputs), inputs, strict=True):
        data = np.ascontiguousarray(value, tensor.dtype.numpy).reshape(-1).view(np.uint8)
        dram[tensor.address : tensor.address + tensor.nbytes] = data
    code = image.code[program.instruction * INSTRUCTION_BYTES :]
    outcome = machine.run(Program(code, dram, image.packed, _MOST_CYCLES))
    assert outcome.fault is None and outcome.ended and not outcome.aborted, outcome
    assert outcome.guards and not outcome.strayed, outcome
    found = [
        outcome.dram[tensor.address : tensor.address + tensor.nbytes]
        .view(tensor.dtype.numpy)
        .reshape(tensor.shape)
        for tensor in image.chosen(program.outputs)
    ]
    return outcome, found


def _differ(found: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> int:
    """How many bytes do."""
    a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (found, wanted))
    return int((a != b).sum())


def _layers(
    machine: Machine,
    image: ProgramImage,
    entry: int,
    inputs: _Arrays,
    progress: Callable[[str], None],
) -> list[LayerResult]:
    """Each tensor of an entry by itself: what writes it, with what that reads in the network."""
    values = numerics.run_all(image, inputs, entry)
    writers: dict[int, list[Layer]] = {}
    for layer in image.entries[entry].layers:
        writers.setdefault(layer.output, []).append(layer)
    found = []
    for number, (output, layers) in enumerate(writers.items()):
        progress(f"layer {number + 1} of {len(writers)}")
        sources = tuple(dict.fromkeys(index for layer in layers for index in layer.inputs))
        alone = _alone(image, layers, sources, output)
        made = _scheduled(alone, machine.parameters)
        outcome, (result,) = _run(machine, made.image, 0, [values[index] for index in sources])
        model = measure(made.image, made.layers)
        found.append(
            LayerResult(
                layers[0].name,
                layers[0].op.name,
                _differ(result, values[output]),
                outcome.cycles,
                sum(layer.cycles for layer in model),
                outcome.array,
                max(model, key=_cycles).bound,
            )
        )
    return found


def _cycles(layer: LayerCycles) -> int:
    return layer.cycles


def _alone(
    image: ProgramImage, layers: Sequence[Layer], sources: tuple[int, ...], output: int
) -> ProgramImage:
    """An image of *layers*, with each tensor at a place of its own."""
    tensors, at = [], 0
    for index in (*sources, output):
        tensors.append(replace(image.tensors[index], address=at))
        at += -(-image.tensors[index].nbytes // 64) * 64
    numbers = {index: number for number, index in enumerate((*sources, output))}
    moved = tuple(
        replace(layer, inputs=tuple(numbers[i] for i in layer.inputs), output=numbers[output])
        for layer in layers
    )
    entry = Entry(moved, tuple(range(len(sources))), (len(sources),))
    return ProgramImage(image.array, tuple(tensors), (entry,), at)
