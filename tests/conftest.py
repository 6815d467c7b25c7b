"""In continuous integration, a file of tests that was skipped whole is a failure.

Anywhere else a skip says why and that is that: not every machine can run everything.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections import defaultdict

import pytest
from hypothesis import HealthCheck, settings

# A machine that is busy with something else makes no example wrong.
settings.register_profile("edged", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("edged")

# What a shell starts in the background ignores it, and so would each process that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")


class SkippedWhole:
    """Collects the outcomes of each file's tests."""

    def __init__(self) -> None:
        self.outcomes: defaultdict[str, set[str]] = defaultdict(set)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self.outcomes[report.nodeid].add("skipped")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid.partition("::")[0]].add(report.outcome)

    @property
    def files(self) -> list[str]:
        return sorted(file for file, seen in self.outcomes.items() if seen == {"skipped"})

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.files and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for file in self.files:
            terminalreporter.write_line(f"FAILED {file}: skipped whole, which CI must not do")


def pytest_configure(config: pytest.Config) -> None:
    # Where cores are shared, threads of BLAS wait for each other and spin. Not in what the tests
    # start, which is to run as it does at a user's.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        importlib.import_module("numpy")
    # With several workers each sees but a part; whoever gathers the results sees all.
    if IN_CI and not hasattr(config, "workerinput"):
        config.pluginmanager.register(SkippedWhole())
