"""``python -m edged.bundle JOB OUTPUT FILE NAME MEMORY``: the confined half of `pack_bare`.

Reads the model *FILE* from the folder *JOB* and writes ``packed.edgemodel`` into the folder
*OUTPUT*. Prints one line of JSON: ``{"digest": …}``, or ``{"error": "cannot …", "kind": …}`` with
the exit status of the error's class; where data files are missing, ``"files"`` lists all that the
model names.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from edged import sandbox
from edged._onnxfile import read_onnx_bytes

# All imports come before the confinement: afterwards no thread may be there, and less to read.
from edged.bundle import _graph, _samples, _selftest  # noqa: F401
from edged.bundle._bare import PACKED_NAME
from edged.bundle._digest import Digest
from edged.bundle._graph import Graph
from edged.bundle._pack import MAX_MODEL_BYTES, pack
from edged.bundle._version import Version
from edged.errors import EdgedError, IncompleteError, LimitError, ModelError, of_os, stumbled


def main(job: Path, output: Path, file: str, name: str, memory_bytes: int) -> int:
    """Pack the one model; the exit status."""
    answer: dict[str, object]
    try:
        sandbox.lock_down(
            sandbox.Confinement(
                read_only=(job,),
                writable=(output,),
                memory_bytes=memory_bytes,
                file_bytes=2 * MAX_MODEL_BYTES,
            )
        )
        answer, status = {"digest": str(_pack(job / file, output, name))}, 0
    except EdgedError as error:
        answer, status = {"error": str(error), "kind": type(error).__name__}, error.exit_status
        if isinstance(error, IncompleteError):
            answer["files"] = error.files
    except MemoryError:
        problem = f"cannot pack {file}: it takes more than {memory_bytes >> 20} MiB of memory"
        answer, status = (
            {"error": problem, "kind": LimitError.__name__},
            LimitError.exit_status,
        )
    except OSError as error:
        kind = of_os(error)
        problem = f"cannot pack {file}: {error}"
        answer, status = {"error": problem, "kind": kind.__name__}, kind.exit_status
    except Exception as error:  # Nobody who drops a model can do anything with a traceback.
        traceback.print_exc()
        problem = stumbled(f"pack {file}", error)
        answer, status = (
            {"error": problem, "kind": ModelError.__name__},
            ModelError.exit_status,
        )
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return status


def _pack(model: Path, output: Path, name: str) -> Digest:
    content = read_onnx_bytes(model, MAX_MODEL_BYTES)
    number = Graph.load(content, model.name).model_version
    version = Version(number, 0, 0, build=Digest.of(content).short)
    return pack(model, name=name, version=version, output=output / PACKED_NAME)


if __name__ == "__main__":
    job, output, file, name, memory = sys.argv[1:]
    sys.exit(main(Path(job), Path(output), file, name, int(memory)))
