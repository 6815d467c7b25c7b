"""The watchdog: it ends what is late, and nothing else."""

from __future__ import annotations

import threading

from edged.emulator._watchdog import Watchdog

PATIENCE = 10.0


def watchdogs() -> set[threading.Thread]:
    """All that there are; one stays for as long as the last run might have taken."""
    return {thread for thread in threading.enumerate() if thread.name == "watchdog"}


def test_what_is_late_is_ended_and_what_follows_it_in_time_is_not() -> None:
    before = watchdogs()
    watchdog, ended = Watchdog(), threading.Event()
    with watchdog.watching(0.01, ended.set) as late:
        assert ended.wait(PATIENCE)
    assert late.expired
    for _ in range(100):
        with watchdog.watching(PATIENCE, ended.clear) as soon:
            assert len(watchdogs() - before) <= 1
        assert not soon.expired
    assert ended.is_set()


def test_an_earlier_deadline_is_not_overlooked() -> None:
    watchdog, ended = Watchdog(), threading.Event()
    with watchdog.watching(1000, ended.set):
        pass
    with watchdog.watching(0.01, ended.set) as late:
        assert ended.wait(PATIENCE)
    assert late.expired


def test_it_rests_when_nothing_runs() -> None:
    before = watchdogs()
    watchdog, ended = Watchdog(), threading.Event()
    with watchdog.watching(0.2, ended.set):
        (thread,) = watchdogs() - before
    thread.join(PATIENCE)
    assert not thread.is_alive() and not ended.is_set()
    with watchdog.watching(0.01, ended.set) as late:
        assert ended.wait(PATIENCE)
    assert late.expired


def test_none_is_watched_without_a_time() -> None:
    before = watchdogs()
    with Watchdog().watching(0, lambda: None) as never:
        assert watchdogs() <= before
    assert not never.expired
