"""``edgectl``: bundles are made and looked at, and models asked, from a shell."""

from edged.cli._app import main

__all__ = ["main"]
