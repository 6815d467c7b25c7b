"""The entry of the process; the time of the imports is part of what it reports."""

from __future__ import annotations

import time

_BEGAN = time.monotonic()

import sys  # noqa: E402

from edged.container.worker._main import main  # noqa: E402

sys.exit(main(sys.argv[1:], _BEGAN))
