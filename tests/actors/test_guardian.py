"""What is left of clusters whose guardian was killed, and what is not to be touched."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pearl.actors import guardian
from pearl.actors.guardian import LOCK, MARK, TOKEN, marked, remove_leftovers, without_ray


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(guardian, "HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def left(home: Path) -> Path:
    """A cluster's folder whose guardian is dead."""
    return _folder(home, "pearl-deserted")


def _folder(home: Path, name: str) -> Path:
    folder = home / name
    folder.mkdir()
    (folder / LOCK).touch()
    (folder / TOKEN).touch()
    return folder


@pytest.fixture
def process(left: Path) -> Iterator[psutil.Process]:
    """One of its processes, which waits for ever."""
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={MARK: str(left)}
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        yield psutil.Process(started.pid)
        started.kill()


def test_the_next_guardian_removes_what_a_killed_one_left(
    left: Path, process: psutil.Process
) -> None:
    assert marked(str(left)) == [process]

    remove_leftovers()

    assert not left.exists()
    assert not marked(str(left))


def test_what_is_not_of_that_cluster_lives_on(left: Path) -> None:
    """Not even a child of whoever removes what is left."""
    command = [sys.executable, "-c", "input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env={}) as child:
        remove_leftovers()

        assert not left.exists()
        assert child.poll() is None
        child.kill()


def test_a_folder_whose_guardian_lives_stays(left: Path) -> None:
    with (left / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        remove_leftovers()

    assert left.exists()


def test_a_folder_of_another_kind_stays(home: Path) -> None:
    """The name alone says nothing."""
    theirs = home / "pearl-12345678"
    theirs.mkdir()
    (theirs / TOKEN).touch()
    other = _folder(home, "pearl-too-long-to-be-ours")
    link = home / "pearl-linklink"
    link.symlink_to(other)

    remove_leftovers()

    assert theirs.exists()
    assert other.exists()
    assert link.is_symlink()


def test_a_private_cluster_is_told_nothing_that_was_meant_for_others() -> None:
    told = {"RAY_AUTH_MODE": "disabled", "RAY_memory_usage_threshold": "0.1", "HOME": "/root"}

    assert without_ray(told) == {"HOME": "/root"}
