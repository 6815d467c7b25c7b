"""The container: one confined process that holds one model and answers the bytes of its calls.

`ProcessLauncher` or `SystemdLauncher` starts it, `Container` is the front's handle of it. Requests
and responses cross as they came from the network, through shared memory: only the process inside
ever parses them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edged.container._channel import CalledBack
    from edged.container._container import Container, Launcher
    from edged.container._launcher import ContainerLimits, ProcessLauncher, SystemdLauncher
    from edged.container._messages import CALLS_AT_ONCE
    from edged.container._process import Ending
    from edged.container._regions import Region, Regions

__all__ = [
    "CALLS_AT_ONCE",
    "CalledBack",
    "Container",
    "ContainerLimits",
    "Ending",
    "Launcher",
    "ProcessLauncher",
    "Region",
    "Regions",
    "SystemdLauncher",
]

_PLACES = {
    "CALLS_AT_ONCE": "_messages",
    "CalledBack": "_channel",
    "ContainerLimits": "_launcher",
    "Ending": "_process",
    "ProcessLauncher": "_launcher",
    "Region": "_regions",
    "Regions": "_regions",
    "SystemdLauncher": "_launcher",
}


def __getattr__(name: str) -> object:
    """Import on first use: the process inside imports this package too, and asyncio is 30 ms."""
    if name not in __all__:
        raise AttributeError(name)
    module = _PLACES.get(name, "_container")
    return getattr(import_module(f"edged.container.{module}"), name)
