"""Which clients of others work: runs them, and writes docs/conformance.md and .json.

``python -m conformance.run docs/conformance``. What is run are tests of tests/integration; each is
a line of the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

INTEGRATION = Path(__file__).parents[1] / "integration"
CLIENTS = {
    "test_open_inference": "tritonclient.grpc, and messages by hand",
    "test_shared_memory": "tritonclient.grpc, shared memory",
    "test_rest": "tritonclient.http, curl, urllib",
    "test_reflection": "plain grpcio, by reflection alone",
    "test_original_clients": "tensorflow-serving-api, the original Python and C# clients",
    "test_health": "grpcio-health-checking, grpcio-reflection",
}
# A test that is a client of its own.
PROGRAMS = {"perf analyzer": "perf_analyzer"}
PACKAGES = ("tritonclient", "grpcio", "protobuf", "geventhttpclient", "grpcio-health-checking")
HEAD = """\
# Conformance

Clients that others wrote, unmodified, against a real daemon with the emulator. Made by
`make conformance`, which also writes the same to `conformance.json`. What the protocols are used
for, with examples, is in [clients.md](clients.md).
"""


@dataclass(frozen=True)
class Result:
    """One thing that a client did.

    Attributes:
        which: of several of its kind; empty where there is one.
        said: why it was skipped, or how it failed; empty when it passed.
    """

    client: str
    what: str
    which: str
    outcome: str
    said: str = ""


def main() -> int:
    into = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}"]
        words += [str(INTEGRATION / f"{name}.py") for name in CLIENTS]
        status = subprocess.run(words, check=False).returncode
        found = list(results(ElementTree.parse(report).getroot()))
    versions = {name: version(name) for name in PACKAGES} | others()
    document = {"versions": versions, "results": [asdict(each) for each in found]}
    into.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")
    into.with_suffix(".md").write_text(table(found, versions))
    return status


def results(report: ElementTree.Element) -> list[Result]:
    found = []
    for case in report.iter("testcase"):
        module = case.get("classname", "").rpartition(".")[2]
        name, _, parameters = case.get("name", "").removeprefix("test_").partition("[")
        what = name.replace("_", " ")
        which = parameters.removesuffix("]").encode("ascii", "replace").decode()
        outcome, said = "passed", ""
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                outcome = "skipped" if child.tag == "skipped" else "failed"
                said = (child.get("message") or "").splitlines()[0][:200]
        found.append(Result(PROGRAMS.get(what, CLIENTS[module]), what, which, outcome, said))
    return found


def others() -> dict[str, str]:
    """The versions of what is run from outside of this environment, where it is there."""
    found = {}
    if python := os.environ.get("EDGED_TENSORFLOW_PYTHON"):
        ask = "import importlib.metadata as m; print(m.version('tensorflow-serving-api'))"
        found["tensorflow-serving-api"] = said(python, "-c", ask)
    if analyzer := os.environ.get("EDGED_PERF_ANALYZER"):
        found["perf_analyzer"] = said(analyzer, "--version").removeprefix("Perf Analyzer Version ")
    return found


def said(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return (done.stdout or done.stderr).strip()


def table(found: list[Result], versions: dict[str, str]) -> str:
    lines = [HEAD, "| package | version |", "|---|---|"]
    lines += [f"| {name} | {number} |" for name, number in versions.items()]
    for client in dict.fromkeys(each.client for each in found):
        of_it = [each for each in found if each.client == client]
        passed = sum(each.outcome == "passed" for each in of_it)
        lines += ["", f"## {client}: {passed} of {len(of_it)}", "", "| what | |", "|---|---|"]
        for what in dict.fromkeys(each.what for each in of_it):
            lines.append(f"| {what} | {outcomes([each for each in of_it if each.what == what])} |")
    return "\n".join(lines) + "\n"


def outcomes(cases: list[Result]) -> str:
    """``passed``, or how often of how many, and what was said of the others."""
    passed = sum(each.outcome == "passed" for each in cases)
    others = "; ".join(
        f"{each.which} {each.outcome}: {each.said}".strip().replace("|", "\\|")
        for each in cases
        if each.outcome != "passed"
    )
    count = "passed" if len(cases) == 1 and passed else f"{passed} of {len(cases)} passed"
    kinds = [each.which for each in cases if each.which.replace("-", "").isalpha()]
    if not others and len(kinds) == len(cases) <= 4:
        return f"passed: {', '.join(kinds)}"
    return f"{count}: {others}" if others else count


if __name__ == "__main__":
    sys.exit(main())
