"""The contract as data: no two registers overlap, and C reads it as Python does."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from edged.npu import regmap
from edged.npu.instructions import CHANNEL, INSTRUCTIONS
from edged.npu.registers import Completion, Descriptor
from edged.npu.regmap import BLOCKS, RECORDS, Access, Bits, Capability, Code, Register, address_map

ROOT = Path(__file__).parents[2]
HEADER = ROOT / "docs" / "edged-npu.h"
ALL = int(~Capability(0))


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("c_header", ROOT / "packaging" / "c_header.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_it_imports_nothing_of_edged() -> None:
    program = (
        "import sys; before = set(sys.modules); import edged.npu.regmap;"
        "print([m for m in set(sys.modules) - before if m.split('.')[0] in ('edged', 'numpy')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert set(json.loads(done.stdout.replace("'", '"'))) == {
        "edged",
        "edged.npu",
        "edged.npu.regmap",
    }


def test_no_two_registers_overlap() -> None:
    taken: dict[int, str] = {}
    for block in BLOCKS:
        for index in range(block.count):
            for register in block:
                first = register.address(index)
                assert first % min(8, register.nbytes) == 0, register
                assert first + register.nbytes <= regmap.BAR0_SIZE
                for at in range(first, first + register.nbytes):
                    assert at not in taken, f"{register!r} and {taken[at]}"
                    taken[at] = repr(register)
    assert set(address_map(ALL)) == {at for at in taken if at % 4 == 0}


def test_blocks_do_not_reach_into_each_other() -> None:
    for block in BLOCKS:
        if block.count > 1:
            assert max(register + register.nbytes for register in block) <= block.stride


@pytest.mark.parametrize("register", [register for block in BLOCKS for register in block], ids=repr)
def test_each_register_makes_sense(register: Register) -> None:
    assert register.text
    assert register.reset is None or 0 <= register.reset < 1 << register.bits
    assert not register.soft or register.reset is not None
    assert register.writable or not register.takes
    for field in register.fields:
        assert field.lsb + field.bits <= register.bits
    if register.codes is not None and register.access in (Access.RO, Access.RW):
        register.codes(register.reset or 0)


def test_blocks_of_a_missing_capability_are_not_there() -> None:
    found = {type(word.register) for word in address_map(0).values()}
    assert found == {regmap.Reg, regmap.Queue, regmap.Bank}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.name)
def test_records_have_the_size_that_they_say(record: regmap.Record) -> None:
    assert struct.calcsize(record.format) == record.size
    values = struct.unpack(record.format, bytes(record.size))
    assert len(values) == sum(1 if i.kind == "bytes" else i.count for i in record.items)


def test_the_rings_hold_what_the_records_say() -> None:
    for kind, record in ((Descriptor, regmap.DESCRIPTOR), (Completion, regmap.COMPLETION)):
        assert [field.name for field in dataclasses.fields(kind)] == [
            item.name for item in record.items
        ]


# The C header


def test_the_header_is_that_of_the_data(generator: ModuleType) -> None:
    assert generator.header() == HEADER.read_text(), "run `make docs`"


def expected() -> dict[str, int]:
    """What a C program is to find, by C expressions."""
    found = {f"EDGED_{name}": int(getattr(regmap, name)) for name in ("MAGIC", "ABI", "NO_BANK")}
    for block in BLOCKS:
        for register in block:
            for index in range(block.count):
                number = f"({index})" if block.count > 1 else ""
                name = f"EDGED_{block.__name__.upper()}_{register.name}"
                found[f"{name}{number}"] = register.address(index)
                found[f"{name}_BITS"] = register.bits
    for bound in regmap.Timing:
        found[f"EDGED_TIMING_{bound.name}_MS"] = round(bound.seconds * 1000)
    for record in (*RECORDS, CHANNEL, *INSTRUCTIONS.values()):
        name = f"struct edged_{record.name}"
        found[f"sizeof({name})"] = record.size
        for item in record.items:
            found[f"offsetof({name}, {item.name})"] = record.offset(item.name)
            found[f"sizeof((({name} *)0)->{item.name})"] = item.nbytes
    return found


def codes() -> Iterator[tuple[str, int]]:
    names = {
        "Capability": "CAPABILITY",
        "ResetCause": "RESET_CAUSE",
        "DescriptorFlag": "DESCRIPTOR_FLAG",
        "Status": "STATUS",
        "Operation": "OPERATION",
        "LayerOp": "LAYER_OP",
        "Opcode": "OPCODE",
    }
    for kind in (*Code.__subclasses__(), *Bits.__subclasses__()):
        if kind.__name__ in names:
            for value in kind:
                yield f"EDGED_{names[kind.__name__]}_{value.name}", int(value)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_c_finds_the_same_offsets_and_sizes(tmp_path: Path) -> None:
    wanted = expected() | dict(codes())
    lines = "".join(f'printf("%llu\\n", (unsigned long long)({text}));\n' for text in wanted)
    source = tmp_path / "print.c"
    source.write_text(f'#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{\n{lines}}}\n')
    program = tmp_path / "print"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", *flags, str(source), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=True)
    assert dict(zip(wanted, map(int, done.stdout.split()), strict=True)) == wanted
