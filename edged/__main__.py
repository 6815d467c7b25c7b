"""The daemon: ``edged`` or ``python -m edged``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from edged import __version__
from edged.config import default_file, load_config
from edged.errors import EdgedError
from edged.host import keep_large_buffers, log_failure, set_up_logging

__all__ = ["main"]

_log = logging.getLogger("edged")

_DESCRIPTION = """\
Serves one model at a time on an FPGA, to TensorFlow Serving clients. Drop a bundle (made by
"edgectl pack") or an ONNX file into the drop folder to load it; the status file beside it says what
became of it. SIGTERM lets running calls finish and ends with status 0.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the daemon; returns its exit status (see :mod:`edged.errors`)."""
    parser = argparse.ArgumentParser("edged", description=_DESCRIPTION)
    parser.add_argument(
        "-c",
        "--config",
        type=Path,
        metavar="FILE",
        help="configuration in TOML; all keys have defaults",
    )
    parser.add_argument(
        "--check-config", action="store_true", help="read the configuration, say what is wrong, end"
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print a file with every key explained, end"
    )
    parser.add_argument("--version", action="version", version=f"edged {__version__}")
    options = parser.parse_args(arguments)
    if options.print_config:
        sys.stdout.write(default_file())
        return 0
    try:
        config = load_config(options.config)
        if options.check_config:
            return 0
        set_up_logging(config.log.level)
        keep_large_buffers()
        # Below Python, gRPC logs what strangers send, bytes and line ends as they are.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        # Imported late: --help and a wrong configuration should not wait for gRPC and SQLite.
        from edged.app import run

        asyncio.run(run(config, lambda: load_config(options.config)))
    except EdgedError as error:
        log_failure(str(error))
        return error.exit_status
    _log.info("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
