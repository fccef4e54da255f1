"""Ctrl-C, SIGTERM, SIGHUP and SIGKILL, sent to real commands at moments that they announce."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, cast

import psutil
import pytest

from pearl import signals
from pearl.__main__ import run
from pearl.actors.guardian import HOME, PREFIX
from tests.actors.pairs import SavedPair

DEADLINE_S: Final = 100.0
ALL: Final = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program in a session of its own, as a terminal has it."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read(process: subprocess.Popen[str], characters: int) -> str:
    return cast("IO[str]", process.stdout).read(characters)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(process.pid).children(recursive=True)
    return found


def ended(processes: list[psutil.Process]) -> bool:
    """Whether all of them have, at the latest after the time that a guardian may take."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


# -- the rules -------------------------------------------------------------------------------------

STUBBORN: Final = """
import threading
from pearl import signals

def command():
    try:
        print("ready", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("heard", flush=True)
    threading.Event().wait()

signals.guarded(command)
"""


@pytest.mark.parametrize(("number", "code"), ALL)
def test_a_second_signal_ends_the_program_at_once(number: int, code: int) -> None:
    """Whatever it is waiting for."""
    with started("-c", STUBBORN) as process:
        assert read(process, 6) == "ready\n"
        process.send_signal(number)
        assert read(process, 6) == "heard\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == code
    assert err == "pearl: interrupted\n"


def test_a_program_that_does_not_end_after_the_first_is_ended() -> None:
    with started("-c", STUBBORN) as process:
        assert read(process, 6) == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 130
    assert err == "pearl: interrupted\n"


def test_what_was_switched_off_stays_off() -> None:
    """As by `nohup`."""
    program = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from pearl import signals; "
        "signals.guarded(lambda: 7 if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else 1)"
    )
    with started("-c", program) as process:
        process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 7


def test_a_coroutine_is_cancelled_and_cleans_up_but_threads_are_not_waited_for() -> None:
    released, steps = threading.Event(), []

    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.to_thread(released.wait)
        finally:
            steps.append("cleaned up")

    with signals.heeded(), pytest.raises(KeyboardInterrupt):
        signals.run(work())

    assert steps == ["cleaned up"]
    assert signals.exit_code() == 143
    released.set()


def test_a_verb_hears_signals_only_while_it_runs() -> None:
    before = [signal.getsignal(number) for number in signals.NUMBERS]

    run(["theory", "--alpha", "0.8"])

    assert [signal.getsignal(number) for number in signals.NUMBERS] == before


# -- verbs -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("everybody", [True, False], ids=["group", "alone"])
@pytest.mark.parametrize(("number", "code"), ALL)
def test_a_simulation_on_all_cores_ends_with_its_workers(
    number: int, code: int, *, everybody: bool
) -> None:
    """In silence, however long the jobs are that the workers have begun."""
    arguments = ["simulate", "--tokens", "2000000", "--replications", "40"]
    with started("-m", "pearl", *arguments) as process:
        while len(workers := family(process)) < 2 and process.poll() is None:
            pass
        (os.killpg if everybody else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == code
    assert out == ""
    assert err.startswith("pearl: interrupted\n")
    assert "Traceback" not in err  # Python's helper may say that it had to tidy up
    assert ended(workers)


LOCAL: Final = ["--devices", "local", "--gpus", "0"]
ON_RAY: Final = ["--gpus", "0"]


def generate(pair: SavedPair, *more: str) -> list[str]:
    models = ["--target", str(pair.target), "--draft", str(pair.draft)]
    length = ["--max-new-tokens", "4000", "--gamma", "2"]
    return ["-m", "pearl", "generate", "the quick brown fox", *models, *length, *more]


@pytest.mark.slow
@pytest.mark.parametrize(
    "devices", [LOCAL, pytest.param(ON_RAY, marks=pytest.mark.ray)], ids=["local", "ray"]
)
@pytest.mark.parametrize(("number", "code"), ALL)
def test_each_signal_keeps_the_text_and_tells_the_summary(
    number: int, code: int, devices: list[str], text_pair: SavedPair
) -> None:
    with started(*generate(text_pair, *devices)) as process:
        begun = read(process, 10)
        whole = family(process)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == code
    assert len(begun) == 10
    (summary,) = without_steps(err)
    assert summary.endswith("interrupted")
    assert ended(whole)


def without_steps(err: str) -> list[str]:
    """What was said, without the steps of a start that were slow."""
    steps = ("checking ", "starting ", "loading ")
    return [line for line in err.splitlines() if not line.startswith(steps)]


@pytest.mark.ray
def test_of_a_command_that_was_killed_nothing_is_left(text_pair: SavedPair) -> None:
    with started(*generate(text_pair, *ON_RAY)) as process:
        read(process, 10)
        whole = family(process)
        folders = _folders(whole)
        process.kill()
        process.wait()

        assert len(whole) > 5
        assert len(folders) == 1
        assert ended(whole)
        assert not folders.pop().exists()


def _folders(processes: list[psutil.Process]) -> set[Path]:
    """The private cluster's, where a process names it."""
    words = [word for process in processes for word in process.cmdline()]
    return {Path(found[0]) for word in words if (found := re.search(f"{HOME}/{PREFIX}\\w+", word))}


@pytest.mark.ray
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_start_can_be_ended_while_the_cluster_starts(number: int, text_pair: SavedPair) -> None:
    with started(*generate(text_pair, *ON_RAY)) as process:
        while not (whole := family(process)) and process.poll() is None:
            pass
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert out == ""
    assert without_steps(err) == ["pearl: interrupted"] * (number == signal.SIGINT)
    assert ended(whole)
