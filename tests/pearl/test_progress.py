"""A start that takes long says what it does; one that does not says nothing."""

from __future__ import annotations

import sys
import threading
from io import StringIO

import pytest

from pearl import progress
from pearl.progress import starting


def test_where_there_is_no_terminal_what_is_slow_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line a stage: a log file is no place for figures that change."""
    monkeypatch.setattr(progress, "PATIENCE_S", 0.0)

    with starting() as told:
        told("checking the models", None)
        finish_timers()
        for share in (0.0, 0.4, 0.8):
            told("loading target X on cpu", share)
            finish_timers()

    assert capsys.readouterr() == ("", "checking the models\nloading target X on cpu\n")


def test_what_is_over_in_time_is_not_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal is one line then."""
    with starting() as told:
        told("checking the models", None)
        told("loading target X on cpu", 0.0)
        told("loading draft Y on cpu", 0.5)
    finish_timers()

    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_every_device_has_a_line_with_its_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What has no share is taken off when something else begins, and all of it at the end."""
    written = terminal_text(monkeypatch)

    assert "checking the models" in written
    assert "loading target X on cpu: 43 %" in written
    assert "loading draft Y on cpu: 100 %" in written
    assert written.rindex("checking") < written.index("43 %")


def terminal_text(monkeypatch: pytest.MonkeyPatch) -> str:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with starting() as told:
        told("checking the models", None)
        told("loading target X on cpu", 0.43)
        told("loading draft Y on cpu", 1.0)
    return terminal.getvalue()


def finish_timers() -> None:
    """Wait for those that run, unless they were stopped."""
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join()
