"""Work that must not be left half done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

__all__ = ["to_its_end"]

_log = logging.getLogger(__name__)


async def to_its_end(work: Coroutine[Any, Any, object]) -> None:
    """Do *work* even if who waits for it is cancelled, once or more; that is heard afterwards."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        task.result()
        return
    if not task.cancelled() and task.exception() is not None:
        _log.error("%s", task.exception())
    raise cancelled
