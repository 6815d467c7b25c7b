"""Writes the manual page of a command, or of the configuration, from what it says of itself.

python packaging/man.py NAME SECTION VERSION FOLDER
"""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

SUMMARIES = {
    "edged": "serve models on an FPGA to clients of TensorFlow Serving",
    "edged-card": "take the FPGA card from the kernel and hand it out to edged",
    "edged-emulator": "emulate the FPGA that edged serves models on",
    "edgectl": "make bundles, look at them, put them to use, and ask models",
    "edged.toml": "configuration of edged",
}
MODULES = {
    "edged": "edged.__main__",
    "edged-card": "edged.card_app",
    "edged-emulator": "edged.emulator.__main__",
}
SEE_ALSO = {
    "edged": "edgectl(1), edged.toml(5), edged-card(8), edged-emulator(8), systemctl(1),"
    " journalctl(1)",
    "edged-card": "edged(8), lspci(8)",
    "edged-emulator": "edged(8)",
    "edgectl": "edged(8), edged.toml(5), journalctl(1)",
    "edged.toml": "edged(8), edgectl(1)",
}


def main() -> None:
    name, section, version, folder = sys.argv[1:]
    year_month_day = _date()
    text = [
        f'.TH {name.upper()} {section} "{year_month_day}" "edged {version}"',
        ".ad l",
        ".SH NAME",
        f"{name} \\- {SUMMARIES[name]}",
        *_body(name),
        ".SH SEE ALSO",
        _escaped(SEE_ALSO[name]),
    ]
    Path(folder, f"{name}.{section}").write_text("\n".join(text) + "\n")


def _body(name: str) -> list[str]:
    if name == "edgectl":
        return _edgectl()
    return _configuration() if name == "edged.toml" else _plain(MODULES[name])


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


def _configuration() -> list[str]:
    """The reference of all keys, out of its Markdown: paragraphs, headings, and tables of keys."""
    from edged.config import reference

    text = [".SH SYNOPSIS", "/etc/edged/edged.toml", ".br", "/etc/edged/edged.toml.d/*.toml"]
    text += [".SH DESCRIPTION"]
    verbatim = False
    for line in reference().splitlines():
        if line.startswith("```"):
            verbatim = not verbatim
            text.append(".nf" if verbatim else ".fi")
        elif verbatim:
            text.append(_escaped(line))
        elif line.startswith("## "):
            text.append(f".SH {_escaped(_bare(line[3:]))}")
        elif line.startswith("| `"):
            name, *rest, last = _cells(line)
            first = "; ".join(filter(None, rest))
            text += [".TP", f".B {_escaped(name)}", f"{_escaped(first)}.", ".br", _escaped(last)]
        elif not line:
            text.append(".PP")
        elif not line.startswith(("#", "|", "<!--")):
            text.append(_escaped(_bare(line)))
    # Blank lines before headings and tables are none of a page's.
    return [a for a, b in zip(text, [*text[1:], ""], strict=True) if a != ".PP" or b[:3] != ".SH"]


def _cells(row: str) -> list[str]:
    """Those of a row; a bar within one is escaped."""
    cells = row.replace("\\|", "\0").strip().removeprefix("|").removesuffix("|").split("|")
    return [_bare(cell.strip().replace("\0", "|")) for cell in cells]


def _bare(text: str) -> str:
    """Without Markdown's signs: a link is its words."""
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).replace("`", "").replace("↻", "(live)")


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
    for paragraph in _shown(command.help).split("\n\n"):
        text += [".PP", _escaped(" ".join(paragraph.split()))]
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record and not getattr(parameter, "hidden", False):
            text += [".TP", f".B {_escaped(record[0])}", _escaped(_shown(record[1]))]
    if examples := getattr(command, "examples", None):
        text += [".PP", "For instance:", *_verbatim("\n".join(examples))]
    for name in getattr(command, "commands", {}):
        text += _command(f"{path} {name}", command.commands[name], context)
    return text


def _shown(markup: str | None) -> str:
    """Help as a terminal shows it: commands have it as Rich's markup."""
    from rich.text import Text

    return Text.from_markup(markup or "").plain


def _verbatim(text: str) -> list[str]:
    return [".nf", *(_escaped(line) for line in text.rstrip().splitlines()), ".fi"]


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("·", "\\(bu")
    text = text.replace("|", "|\\:")  # where a line may end
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    main()
