"""``edgectl token``: who may call, by bearer tokens."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from edged.cli._control import configuration
from edged.cli._help import Commands
from edged.cli._options import ConfigOption, JsonOption
from edged.cli._output import moment, print_json, print_table, stderr, stdout
from edged.tokens import TokenFile

ADD_EXAMPLES = "edgectl token add line-3-camera · edgectl token add line-3-camera > camera.token"
REVOKE_EXAMPLES = "edgectl token revoke line-3-camera"

token = Commands(
    help="Make, list and revoke the bearer tokens that clients call with.",
    no_args_is_help=True,
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the client, as the log has it.")]


@token.command(epilog=ADD_EXAMPLES)
def add(name: _Name, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Make a token and print it, once: edged keeps its hash only.

    It is for listeners with tokens = true, and valid at once.
    """
    file = _file(config)
    secret = file.add(name)
    if as_json:
        print_json({"name": name, "token": secret, "file": str(file.path)})
        return
    print(secret)  # noqa: T201  (for a pipe: nothing but the secret)
    stderr().print(escape(f"the token of {name}; it is not shown again"))


@token.command("list")
def list_tokens(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the tokens by name, and since when there is each."""
    tokens = _file(config).read()
    if as_json:
        print_json([{"name": t.name, "created": f"{t.created:%Y-%m-%dT%H:%M:%SZ}"} for t in tokens])
    elif tokens:
        print_table(("NAME", "SINCE"), [(t.name, moment(t.created.timestamp())) for t in tokens])
    else:
        stdout().print("there are no tokens; `edgectl token add NAME` makes one")


@token.command(epilog=REVOKE_EXAMPLES)
def revoke(name: _Name, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Have a token refused from the next call on."""
    file = _file(config)
    file.revoke(name)
    if as_json:
        print_json({"revoked": name, "file": str(file.path)})
    else:
        stdout().print(escape(f"revoked: {name}"))


def _file(config: ConfigOption) -> TokenFile:
    return TokenFile(configuration(config).serving.tokens)
