"""Where daemon and ``edged-card`` meet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Places"]


@dataclass(frozen=True, slots=True)
class Places:
    """Files in the folder of sockets.

    Attributes:
        socket: where the card is served.
        state: how things stand, a :class:`~edged.card.State`.
        claim: what has to be put back.
    """

    socket: Path
    state: Path
    claim: Path

    @classmethod
    def beside(cls, socket: Path) -> Places:
        return cls(socket, socket.with_suffix(".state"), socket.with_suffix(".claim"))
