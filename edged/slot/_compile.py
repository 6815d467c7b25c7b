"""Running the compiler: a confined process of low priority that reports its progress."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from edged import sandbox
from edged.errors import DeadlineError, ModelError, UnavailableError, by_name
from edged.faults import fault_point
from edged.nesting import check_nesting
from edged.npu import Target

__all__ = ["CompilerProcess"]

_MAX_LINE = 1 << 20
_STDERR_KEPT = 4096


class CompilerProcess:
    """Compiles models one process each, because a model is not to be trusted.

    Args:
        memory_bytes: bound on the process's memory.
        timeout_seconds: bound on its time.
        bubblewrap: ``"auto"`` or ``"never"``, as :func:`edged.sandbox.command` takes it.
    """

    def __init__(self, memory_bytes: int, timeout_seconds: float, bubblewrap: str = "auto") -> None:
        self._memory_bytes = memory_bytes
        self._timeout_seconds = timeout_seconds
        self._bubblewrap = bubblewrap

    async def __call__(
        self, job: Path, output: Path, target: Target, tell: Callable[[float, str], None]
    ) -> None:
        """Compile ``job/model.onnx`` into the folder *output*.

        Args:
            tell: called with a fraction 0 … 1 and the name of the step.

        Raises:
            ModelError: the model cannot be compiled; the compiler's own words.
            LimitError: it ran out of the memory that it may take.
            DeadlineError: it ran out of time.
            UnavailableError, SandboxError, ShortageError, StoreError: the machine is at fault.
        """
        confinement = sandbox.Confinement(
            read_only=(job,), writable=(output,), memory_bytes=self._memory_bytes
        )
        argv = [sys.executable, "-m", "edged.compiler", str(job), "--output", str(output)]
        argv += ["--target", str(target), "--confine", "--memory", str(self._memory_bytes)]
        words = await asyncio.to_thread(
            sandbox.command, argv, confinement, (), bubblewrap=self._bubblewrap
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=_MAX_LINE,
                start_new_session=True,
            )
        except OSError as error:
            raise UnavailableError(f"cannot start the compiler: {error}") from error
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, 10)
        try:
            fault_point("slot.compiler.started")
            async with asyncio.timeout(self._timeout_seconds):
                answer, errors = await asyncio.gather(
                    _answer(process, tell), _last_words(process.stderr)
                )
                status = await process.wait()
        except TimeoutError as error:
            raise DeadlineError(
                f"cannot compile: not done after {self._timeout_seconds:g} s, the limit of"
                " compiler.timeout_seconds"
            ) from error
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if answer.get("done"):
            return
        if "error" in answer:
            raise by_name(str(answer.get("kind")))(str(answer["error"]))
        limit = f"{self._memory_bytes >> 20} MiB, the limit of compiler.memory_bytes"
        raise sandbox.no_answer("cannot compile", status, errors, limit)


async def _answer(
    process: asyncio.subprocess.Process, tell: Callable[[float, str], None]
) -> dict[str, object]:
    """The last line that is not progress; what is no JSON object is not for us."""
    assert process.stdout is not None
    answer: dict[str, object] = {}
    while True:
        try:
            line = await process.stdout.readline()
        except ValueError as error:
            raise ModelError("cannot compile: the compiler's output has an endless line") from error
        if not line:
            return answer
        try:
            check_nesting(line)
            message = json.loads(line)
        except ValueError:
            continue
        if not isinstance(message, dict):
            continue
        if "progress" in message:
            tell(float(message["progress"]), str(message.get("step", "compiling")))
        else:
            answer = message


async def _last_words(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    kept = b""
    while chunk := await stream.read(65536):
        kept = (kept + chunk)[-_STDERR_KEPT:]
    return kept.decode(errors="replace").strip()
