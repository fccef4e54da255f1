"""Nothing that is said can end a run, whatever the terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from pearl.__main__ import run
from pearl.showing import terminal

TEXT = "世界 🙂 é – \N{FULL BLOCK}"


ENCODINGS = ["cp1252", "latin-1", "ascii", "utf-8"]


@contextlib.contextmanager
def a_terminal(encoding: str) -> Iterator[io.BytesIO]:
    """Standard output of this encoding, and what it gets."""
    raw = io.BytesIO()
    with contextlib.redirect_stdout(io.TextIOWrapper(raw, encoding)):
        yield raw


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-8"])
def test_text_that_a_terminal_lacks_is_replaced(encoding: str) -> None:
    """But for ASCII: click takes that for a locale that nobody has set, and writes UTF-8."""
    with a_terminal(encoding) as screen:
        with terminal.spoken():
            click.echo(TEXT, nl=False)

        assert len(screen.getvalue().decode(encoding)) == len(TEXT)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_json_is_the_same_bytes_in_every_encoding(encoding: str) -> None:
    with a_terminal(encoding) as screen:
        with terminal.spoken():
            terminal.print_json({"text": TEXT})

        assert screen.getvalue().isascii()
        assert json.loads(screen.getvalue()) == {"text": TEXT}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("line", ["theory", "optimise", "simulate --tokens 20", "theory --json"])
def test_tables_are_drawn_with_what_the_terminal_has(encoding: str, line: str) -> None:
    with a_terminal(encoding) as screen:
        assert run(line.split()) == 0
        assert len(screen.getvalue()) > 100


def test_a_message_is_one_line_that_a_terminal_does_not_obey() -> None:
    assert terminal.one_line("a\nb\x1b[2J \udcff") == "a b\\x1b[2J \\udcff"


def test_a_long_value_leaves_room_for_what_is_wrong_with_it() -> None:
    line = terminal.one_line(f"gamma is {'9' * 5000}; it must be a number")

    assert len(line) < 1100
    assert line.startswith("gamma is 99")
    assert line.endswith("; it must be a number")


# -- streams that fail -------------------------------------------------------------------------


def _ended(
    redirected: str = "", *, line: str = "theory", stdout: int = subprocess.DEVNULL
) -> tuple[int, str]:
    """Exit code and standard error of the command, behind a shell's redirection."""
    command = [sys.executable, "-c", "from pearl.__main__ import main; main()", *line.split()]
    shell = ["sh", "-c", f'"$0" "$@" {redirected}', *command]
    done = subprocess.run(shell, stdout=stdout, stderr=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stderr


def test_a_full_disk_behind_standard_output_is_told_once() -> None:
    code, told = _ended(">/dev/full")

    assert code == 1
    assert told == "pearl: standard output cannot be written: No space left on device\n"


def test_standard_output_that_is_closed_is_told() -> None:
    code, told = _ended(">&-")

    assert code == 1
    assert told.startswith("pearl: standard output is closed")
    assert told.count("\n") == 1


@pytest.mark.parametrize("line", ["theory", "sweep --alpha 0.1:0.9:0.001", "theory --json"])
def test_whoever_has_read_enough_is_not_told_anything(line: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)

    code, told = _ended(line=line, stdout=writer)
    os.close(writer)

    assert (code, told) == (1, "")


def test_what_came_of_it_is_said_also_where_a_file_cannot_be_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["simulate", "--tokens", "20", "--json", "--trace", "/dev/full"]) == 1

    said = capsys.readouterr()
    assert json.loads(said.out)["tokens"] == 20
    assert said.err == "pearl: /dev/full cannot be written: No space left on device\n"


def test_a_file_that_cannot_be_written_is_told_also_where_nobody_reads_the_rest() -> None:
    reader, writer = os.pipe()
    os.close(reader)

    code, told = _ended(line="simulate --tokens 20 --trace /dev/full", stdout=writer)
    os.close(writer)

    assert (code, told) == (1, "pearl: /dev/full cannot be written: No space left on device\n")


# -- what nobody expected ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (RecursionError("maximum recursion depth"), "something is nested too deep"),
        (OSError(28, "No space left on device", "/a/b"), "/a/b: No space left on device"),
        (OverflowError("too large"), "too large"),
    ],
)
def test_what_the_system_lacks_is_one_line(
    error: Exception, words: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.delenv("PEARL_TRACEBACK", raising=False)
    _let_theory_raise(error, monkeypatch)

    assert run(["theory"]) == 1
    assert capsys.readouterr().err == f"pearl: {words}\n"


def test_a_bug_is_one_line_that_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PEARL_TRACEBACK", raising=False)
    _let_theory_raise(KeyError("gone"), monkeypatch)

    assert run(["theory"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("pearl: a bug: KeyError: 'gone' (")
    assert "test_terminal.py, line" in told
    assert told.count("\n") == 1


def test_a_bug_shows_its_traceback_to_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEARL_TRACEBACK", "1")
    _let_theory_raise(KeyError("gone"), monkeypatch)

    with pytest.raises(KeyError, match="gone"):
        run(["theory"])


def _let_theory_raise(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> object:
        raise error

    monkeypatch.setattr("pearl.verbs.theory._numbers", broken)
