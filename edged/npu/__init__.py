"""The contract with the device: registers, program image, and the integer reference.

Driver, emulator and gateware meet here and nowhere else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edged.npu import numerics, registers, regmap
    from edged.npu.firmware import (
        EMULATOR_SHELL,
        Firmware,
        FirmwareHeader,
        parse_firmware,
        parse_firmware_header,
        serialize_firmware,
    )
    from edged.npu.graph import (
        ACCUMULATOR_BOUND,
        WIDE_ACCUMULATOR_BOUND,
        DType,
        Entry,
        Layer,
        Loop,
        Op,
        ProgramImage,
        Schedule,
        Shift,
        Tensor,
    )
    from edged.npu.image import (
        image_digest,
        parse_image,
        serialize_image,
        weights_bytes,
    )
    from edged.npu.registers import EMULATED, Array, Target
    from edged.npu.regmap import ABI, MAX_FIRMWARE_BYTES, MAX_IMAGE_BYTES, FirmwareKind

__all__ = [
    "ABI",
    "ACCUMULATOR_BOUND",
    "EMULATED",
    "EMULATOR_SHELL",
    "MAX_FIRMWARE_BYTES",
    "MAX_IMAGE_BYTES",
    "WIDE_ACCUMULATOR_BOUND",
    "Array",
    "DType",
    "Entry",
    "Firmware",
    "FirmwareHeader",
    "FirmwareKind",
    "Layer",
    "Loop",
    "Op",
    "ProgramImage",
    "Schedule",
    "Shift",
    "Target",
    "Tensor",
    "image_digest",
    "numerics",
    "parse_firmware",
    "parse_firmware_header",
    "parse_image",
    "registers",
    "regmap",
    "serialize_firmware",
    "serialize_image",
    "weights_bytes",
]

_PLACES = {
    **dict.fromkeys(("ABI", "MAX_FIRMWARE_BYTES", "MAX_IMAGE_BYTES", "FirmwareKind"), "regmap"),
    **dict.fromkeys(("EMULATED", "Array", "Target"), "registers"),
    **dict.fromkeys(
        (
            "ACCUMULATOR_BOUND",
            "WIDE_ACCUMULATOR_BOUND",
            "DType",
            "Entry",
            "Layer",
            "Loop",
            "Op",
            "ProgramImage",
            "Schedule",
            "Shift",
            "Tensor",
        ),
        "graph",
    ),
    **dict.fromkeys(
        ("image_digest", "parse_image", "serialize_image", "weights_bytes"),
        "image",
    ),
}


def __getattr__(name: str) -> object:
    """Import on first use: who wants the registers alone need not wait for NumPy, 100 ms."""
    if name not in __all__:
        raise AttributeError(name)
    if name in ("numerics", "registers", "regmap"):
        return import_module(f"edged.npu.{name}")
    return getattr(import_module(f"edged.npu.{_PLACES.get(name, 'firmware')}"), name)
