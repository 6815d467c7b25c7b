"""Help that says what to type: texts and examples as they are written.

Typer takes help for Rich's markup, in which ``[train]`` is a style and vanishes, and fills
paragraphs, which breaks a command where the terminal ends. The texts here are plain, so they are
escaped in one place, and each example keeps a line of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from rich.markup import escape
from typer.core import TyperCommand

__all__ = ["Command", "Commands"]

F = TypeVar("F", bound=Callable[..., Any])


class Command(TyperCommand):
    """One command.

    Attributes:
        examples: command lines, from an epilogue that separates them by " · ".
    """

    def __init__(
        self,
        name: str | None,
        *,
        help: str | None = None,
        epilog: str | None = None,
        params: list[Any] | None = None,
        **settings: Any,
    ) -> None:
        for parameter in params or ():
            parameter.help = escape(getattr(parameter, "help", None) or "")
        super().__init__(name, help=escape(_filled(help or "")), params=params, **settings)
        self.examples = epilog.split(" · ") if epilog else []

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help; Rich does it at once, and the examples follow."""
        super().format_help(ctx, formatter)
        if self.examples:
            lines = "".join(f"   {example}\n" for example in self.examples)
            formatter.write(f" Examples:\n{lines}")


class Commands(typer.Typer):
    """An application made of such commands, or of one; *settings* are those of `typer.Typer`."""

    def __init__(self, *, help: str = "", **settings: Any) -> None:
        super().__init__(help=escape(help), add_completion=False, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[F], F]:
        """As `typer.Typer.command`."""
        return super().command(name, cls=Command, **settings)


def _filled(text: str) -> str:
    """Paragraphs without the line ends of the source."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))
