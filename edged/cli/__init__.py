"""``edgectl``: bundles are made, looked at and put to use, and models asked, from a shell."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run ``edgectl``; see :mod:`edged.cli._app`."""
    # Imported late: systemd asks :mod:`edged.cli.which`, and waits.
    from edged.cli._app import main as edgectl

    edgectl()
