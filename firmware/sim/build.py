"""Makes a shared library of the RTL and what is around it, by Verilator; once for each design."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from amaranth.back import verilog
from amaranth.lib import wiring

__all__ = ["build", "cache_folder", "is_possible", "verilog_of"]

_HARNESS: Final = Path(__file__).with_name("harness.cpp")
_LIBRARY: Final = "libdevice.so"
_OPTIONS: Final = (
    "--cc",
    "--exe",
    "--top-module",
    "top",
    "-O3",
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
    "OPT_FAST=-O2 OPT_SLOW=-O1 OPT_GLOBAL=-O2",
)


def is_possible() -> bool:
    """Whether what it takes is installed."""
    return all(shutil.which(tool) for tool in ("verilator", "g++", "make"))


def cache_folder() -> Path:
    """Where libraries are kept: the user's cache, as XDG has it."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "edged" / "rtl"


def verilog_of(top: wiring.Component) -> str:
    """The design as one Verilog file, of module ``top``."""
    return str(verilog.convert(top, name="top", emit_src=False))


def build(source: str, cache: Path | None = None) -> Path:
    """The library for the Verilog *source*, from the cache if it is there.

    Args:
        cache: a folder for what was built; :func:`cache_folder` if it is None.

    Raises:
        RuntimeError: Verilator or the compiler fails, with what it said.
    """
    folder = cache if cache is not None else cache_folder()
    harness = _HARNESS.read_bytes()
    version = _run(["verilator", "--version"])
    parts = (source.encode(), harness, "\0".join(_OPTIONS).encode(), version.encode())
    key = hashlib.blake2s(b"\0".join(hashlib.blake2s(part).digest() for part in parts))
    library = folder / key.hexdigest()[:24] / _LIBRARY
    if library.exists():
        return library
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        at = Path(made)
        (at / "top.v").write_text(source)
        _run(
            [
                "verilator",
                *_OPTIONS,
                "--build",
                "-j",
                "1",
                "--Mdir",
                made,
                "-o",
                _LIBRARY,
                str(at / "top.v"),
                str(_HARNESS),
            ]
        )
        library.parent.mkdir(exist_ok=True)
        # Two that build the same at once put the same there.
        (at / _LIBRARY).replace(library)
        (at / "top.v").replace(library.with_name("top.v"))
    return library


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"cannot build the RTL: {command[0]} said: {done.stderr[-4000:]}")
    return done.stdout
