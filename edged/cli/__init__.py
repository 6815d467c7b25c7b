"""``edgectl``: bundles are made, looked at and put to use, and models asked, from a shell."""

from edged.cli._app import main

__all__ = ["main"]
