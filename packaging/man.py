"""Writes the manual page of a command from what the command says of itself.

python packaging/man.py NAME SECTION VERSION FOLDER
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

SUMMARIES = {
    "edged": "serve models on an FPGA to clients of TensorFlow Serving",
    "edged-card": "take the FPGA card from the kernel and hand it out to edged",
    "edged-emulator": "emulate the FPGA that edged serves models on",
    "edgectl": "make bundles, look at them, put them to use, and ask models",
}
MODULES = {
    "edged": "edged.__main__",
    "edged-card": "edged.card_app",
    "edged-emulator": "edged.emulator.__main__",
}
SEE_ALSO = {
    "edged": "edgectl(1), edged-card(8), edged-emulator(8), systemctl(1), journalctl(1)",
    "edged-card": "edged(8), lspci(8)",
    "edged-emulator": "edged(8)",
    "edgectl": "edged(8), journalctl(1)",
}


def main() -> None:
    name, section, version, folder = sys.argv[1:]
    year_month_day = _date()
    text = [
        f'.TH {name.upper()} {section} "{year_month_day}" "edged {version}"',
        ".SH NAME",
        f"{name} \\- {SUMMARIES[name]}",
        *(_edgectl() if name == "edgectl" else _plain(MODULES[name])),
        ".SH SEE ALSO",
        _escaped(SEE_ALSO[name]),
    ]
    Path(folder, f"{name}.{section}").write_text("\n".join(text) + "\n")


def _date() -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(int(os.environ['SOURCE_DATE_EPOCH']), UTC):%Y-%m-%d}"


def _plain(module: str) -> list[str]:
    """A command of argparse: its help as it is."""
    os.environ["COLUMNS"] = "78"
    output = io.StringIO()
    with redirect_stdout(output), suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
    usage, _, rest = output.getvalue().partition("\n\n")
    return [
        ".SH SYNOPSIS",
        *_verbatim(usage.removeprefix("usage: ")),
        ".SH DESCRIPTION",
        *_verbatim(rest),
    ]


def _edgectl() -> list[str]:
    """A command of commands: a section for each."""
    import typer

    from edged.cli import _app

    root: Any = typer.main.get_command(_app.app)
    context = root.make_context("edgectl", [], resilient_parsing=True)
    text = [".SH SYNOPSIS", ".B edgectl", "COMMAND [OPTIONS] [ARGUMENTS]", ".SH DESCRIPTION"]
    text += [_escaped(root.help), ".SH COMMANDS"]
    for name in root.list_commands(context):
        text += _command(f"edgectl {name}", root.get_command(context, name), context)
    return [*text, ".SH EXIT STATUS", _escaped(root.epilog.removeprefix("Exit status: "))]


def _command(path: str, command: Any, parent: Any) -> list[str]:
    context = type(parent)(command, info_name=path, parent=None)
    words = " ".join(command.collect_usage_pieces(context))
    text = [f'.SS "{_escaped(f"{path} {words}")}"']
    for paragraph in (command.help or "").split("\n\n"):
        text += [".PP", _escaped(" ".join(paragraph.split()))]
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record and not getattr(parameter, "hidden", False):
            text += [".TP", f".B {_escaped(record[0])}", _escaped(record[1])]
    if command.epilog:
        text += [".PP", f"For instance: {_escaped(command.epilog)}"]
    for name in getattr(command, "commands", {}):
        text += _command(f"{path} {name}", command.commands[name], context)
    return text


def _verbatim(text: str) -> list[str]:
    return [".nf", *(_escaped(line) for line in text.rstrip().splitlines()), ".fi"]


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("·", "\\(bu")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    main()
