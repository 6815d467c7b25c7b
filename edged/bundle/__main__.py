"""``python -m edged.bundle JOB OUTPUT NAME MEMORY``: the confined half of `pack_bare`.

Reads ``model.onnx`` from the folder *JOB* and writes ``packed.edgemodel`` into the folder *OUTPUT*.
Prints one line of JSON: ``{"digest": …}``, or ``{"error": "cannot …", "status": …}`` with the exit
status of the error's class.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edged import sandbox

# All imports come before the confinement: afterwards no thread may be there, and less to read.
from edged.bundle import _graph, _samples, _selftest  # noqa: F401
from edged.bundle._bare import PACKED_NAME
from edged.bundle._digest import Digest
from edged.bundle._graph import Graph
from edged.bundle._manifest import FileName
from edged.bundle._pack import MAX_MODEL_BYTES, pack
from edged.bundle._version import Version
from edged.errors import EdgedError, LimitError


def main(job: Path, output: Path, name: str, memory_bytes: int) -> int:
    """Pack the one model; the exit status."""
    try:
        sandbox.lock_down(
            sandbox.Confinement(
                read_only=(job,),
                writable=(output,),
                memory_bytes=memory_bytes,
                file_bytes=2 * MAX_MODEL_BYTES,
            )
        )
        answer, status = {"digest": str(_pack(job / FileName.MODEL, output, name))}, 0
    except EdgedError as error:
        answer, status = {"error": str(error), "status": error.grpc_status}, error.exit_status
    except MemoryError:
        problem = f"cannot pack {name}: it takes more than {memory_bytes >> 20} MiB of memory"
        answer, status = (
            {"error": problem, "status": LimitError.grpc_status},
            LimitError.exit_status,
        )
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return status


def _pack(model: Path, output: Path, name: str) -> Digest:
    content = model.read_bytes()
    number = Graph.load(content, f"{name}.onnx").model_version
    version = Version(number, 0, 0, build=Digest.of(content).short)
    return pack(model, name=name, version=version, output=output / PACKED_NAME)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
