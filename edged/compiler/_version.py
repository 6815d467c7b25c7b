"""The version of what comes out."""

from typing import Final

__all__ = ["COMPILER_VERSION"]

COMPILER_VERSION: Final = "33"
"""Raised whenever the same model compiles to something else: a part of every cache key."""
