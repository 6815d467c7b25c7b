"""``edgectl config``: what the configuration files say, and whether that can be used."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from edged.cli._control import SERVICE_FILE, UNDER_SYSTEMD
from edged.cli._help import Commands
from edged.cli._options import ConfigOption
from edged.cli._output import print_json, print_table, stdout
from edged.config import Config, credentials_place, load_config, settings
from edged.errors import InputError

CHECK_EXAMPLES = "edgectl config check · edgectl config check ./edged.toml"
SHOW_EXAMPLES = "edgectl config show · edgectl config show --all · edgectl config show --json"

config = Commands(
    help="Show what the configuration says, and check whether it can be used.",
    no_args_is_help=True,
)

_File = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        help=f"The configuration; by default {SERVICE_FILE}, if it is there. The files in"
        " FILE.d belong to it.",
    ),
]

_Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@config.command(epilog=CHECK_EXAMPLES)
def check(file: _File = None, config: ConfigOption = None, as_json: _Json = False) -> None:
    """Say whether the configuration can be used; if not, exit with status 78.

    Certificates, keys and tokens are read as well. Nothing is changed: a running edged goes on with
    what it has.
    """
    path, environment = _meant(file, config)
    files = {str(setting.file) for setting in settings(path, environment) if setting.file}
    unseen = _unseen(load_config(path, environment), environment)
    if as_json:
        print_json({"usable": True, "files": sorted(files), "not_looked_at": unseen})
        return
    if path is None:
        stdout().print(f"there is no {SERVICE_FILE}: the defaults are in force")
    else:
        said = ", ".join(sorted(files)) or f"{path} changes nothing"
        stdout().print(escape(f"usable: {said}"))
    for each in unseen:
        stdout().print(escape(f"not looked at: {each}"))


def _unseen(config: Config, environment: Mapping[str, str]) -> list[str]:
    """What of the listeners' files cannot be looked at from here, and why.

    Raises:
        ConfigError: one cannot be used.
    """
    # Imported late: gRPC takes a while.
    from edged.listening import troubles

    unseen = []
    for error in troubles(config):
        cause = error.__cause__
        loaded = str(credentials_place(environment))
        if isinstance(cause, PermissionError):
            unseen.append(f"{cause.filename}, which this user may not read; ask as root")
        elif isinstance(cause, FileNotFoundError) and str(cause.filename).startswith(loaded):
            unseen.append(f"{cause.filename}, which systemd puts there when it starts edged")
        else:
            raise error
    return unseen


@config.command(epilog=SHOW_EXAMPLES)
def show(
    file: _File = None,
    config: ConfigOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Defaults, too.")] = False,
    as_json: _Json = False,
) -> None:
    """Show what is in force, and which file says so."""
    path, environment = _meant(file, config)
    found = settings(path, environment)
    if as_json:
        print_json(
            {
                f"{setting.table}.{setting.key}": {
                    "value": setting.plain,
                    "file": str(setting.file) if setting.file else None,
                }
                for setting in found
            }
        )
        return
    shown = [setting for setting in found if everything or setting.file is not None]
    if not shown:
        stdout().print("the defaults are in force; --all shows them")
        return
    rows = [(str(setting), str(setting.file) if setting.file else "default") for setting in shown]
    print_table(("SETTING", "FROM"), rows)


def _meant(file: Path | None, option: Path | None) -> tuple[Path | None, Mapping[str, str]]:
    if file is not None and option is not None:
        raise InputError(f"cannot read both {file} and {option}: name one configuration")
    file = file or option
    if file is None and SERVICE_FILE.exists():
        return SERVICE_FILE, {**os.environ, **UNDER_SYSTEMD}
    return file, os.environ
