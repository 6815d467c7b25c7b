"""Whose fault it is that a confined process gave no answer."""

from __future__ import annotations

import signal

import pytest

from edged.errors import EdgedError, LimitError, ModelError, SandboxError, UnavailableError
from edged.sandbox import no_answer


@pytest.mark.parametrize(
    ("status", "words", "kind", "of_machine"),
    [
        (-signal.SIGKILL, "", UnavailableError, True),
        (128 + signal.SIGKILL, "step 3 of 5", UnavailableError, True),
        (1, "bwrap: setting up uid map: Permission denied", SandboxError, True),
        (127, "/usr/bin/env: 'python': No such file or directory", SandboxError, True),
        (1, "Traceback …\nMemoryError", LimitError, False),
        (-signal.SIGABRT, "terminate called after std::bad_alloc", LimitError, False),
        (-signal.SIGSEGV, "", ModelError, False),
        (128 + signal.SIGSYS, "", ModelError, False),
        (1, "Traceback …\nKeyError: 'x'", ModelError, False),
    ],
)
def test_the_error_says_whose_fault_it_was(
    status: int, words: str, kind: type[EdgedError], of_machine: bool
) -> None:
    error = no_answer("cannot compile", status, words, "4096 MiB, the limit of a.b")
    assert type(error) is kind and error.of_machine is of_machine
    assert str(error).startswith("cannot compile: its process ")
