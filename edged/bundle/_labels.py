"""The file of labels in a bundle: the name of a class on each line."""

from __future__ import annotations

__all__ = ["parse_labels"]


def parse_labels(content: bytes) -> tuple[str, ...]:
    """The names of the classes, in the order of the output: one for each line that ends in LF.

    What is no UTF-8 is replaced, since a bundle may have been packed by others.
    """
    return tuple(content.decode(errors="replace").removesuffix("\n").split("\n"))
