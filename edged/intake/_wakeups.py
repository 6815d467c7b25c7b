"""Wake-ups from the file system: hints that something happened, never relied upon."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from edged.intake._folder import is_ignored

__all__ = ["Wakeups"]

_log = logging.getLogger(__name__)


class Wakeups:
    """Calls *wake*, from another thread, when files come or go in *folder*.

    Where the system has no events to give, it says so in the log, once, and does nothing.
    """

    def __init__(self, folder: Path, wake: Callable[[], None]) -> None:
        self._folder = folder
        self._handler = _Handler(wake)
        self._observer: BaseObserver | None = None
        self._watched: tuple[int, int] | None = None
        self._complaint = ""
        # A look that was cancelled may still be in here, in its thread, when all is closed.
        self._changing = threading.Lock()
        self._closed = False

    def renew(self) -> None:
        """Watch the folder, if it is not the one that is watched already. Blocking."""
        with self._changing:
            if not self._closed:
                self._renew()

    def close(self) -> None:
        """Watch nothing from now on. Blocking."""
        with self._changing:
            self._closed = True
            self._stop()

    def _renew(self) -> None:
        try:
            found = self._folder.stat()
        except OSError:
            self._stop()
            return
        if self._observer is not None and self._watched == (found.st_dev, found.st_ino):
            return
        self._stop()
        observer = Observer()
        try:
            observer.schedule(self._handler, os.fspath(self._folder), recursive=False)
            observer.start()
        except (OSError, RuntimeError) as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.warning(
                    "cannot be told of changes in %s: %s; looking regularly instead",
                    self._folder,
                    error,
                )
            return
        self._observer = observer
        self._watched = (found.st_dev, found.st_ino)

    def _stop(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None


class _Handler(FileSystemEventHandler):
    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def on_created(self, event: FileSystemEvent) -> None:
        self._pass_on(event.src_path)

    def on_deleted(self, event: FileSystemEvent) -> None:
        self._pass_on(event.src_path)

    def on_closed(self, event: FileSystemEvent) -> None:
        self._pass_on(event.src_path)

    def on_moved(self, event: FileSystemEvent) -> None:
        self._pass_on(event.src_path)
        self._pass_on(event.dest_path)

    def _pass_on(self, path: bytes | str) -> None:
        # Status files and temporary names are no news, and most of them are of our own making.
        if path and not is_ignored(Path(os.fsdecode(path)).name):
            self._wake()
