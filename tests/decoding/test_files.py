"""A file is written whole or not at all, and read with a limit."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pearl.decoding import files
from pearl.decoding.errors import SettingError, StorageError

ROW = b'{"a": 1}'


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old.json"
    path.write_bytes(b"old")
    return path


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """As on a disk with little room left: a file of this process ends at 4 kB.

    Also the one that the tests' own report goes to, so only for as long as it must be.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- writing -----------------------------------------------------------------------------------


def test_a_new_file_takes_the_place_of_the_old_one(old: Path) -> None:
    files.write(old, b"new")

    assert old.read_bytes() == b"new"
    assert _names(old.parent) == ["old.json"]


def test_the_old_file_stands_until_all_of_the_new_one_is_written(old: Path) -> None:
    with files.replacing(old) as file:
        file.write(b"new")
        file.flush()

        assert old.read_bytes() == b"old"


def test_where_there_is_no_room_the_old_file_stays_whole(old: Path) -> None:
    told = pytest.raises(StorageError, match=r"old.json cannot be written: File too large")
    with small_files(), told:
        files.write(old, bytes(5000))

    assert old.read_bytes() == b"old"
    assert _names(old.parent) == ["old.json"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_whatever_ends_the_writing_leaves_the_old_file(
    old: Path, error: type[BaseException]
) -> None:
    def write() -> None:
        with files.replacing(old) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        write()

    assert old.read_bytes() == b"old"
    assert _names(old.parent) == ["old.json"]


def test_a_file_keeps_its_mode_and_a_new_one_has_that_of_all_new_ones(old: Path) -> None:
    old.chmod(0o640)
    other, beside = old.with_name("other"), old.with_name("beside")
    beside.write_bytes(b"")

    files.write(old, b"new")
    files.write(other, b"new")

    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert other.stat().st_mode == beside.stat().st_mode


@pytest.mark.parametrize("name", ["old.json", "not there yet.json"])
def test_a_link_stays_a_link(old: Path, name: str) -> None:
    link = old.with_name("link")
    link.symlink_to(name)

    files.write(link, b"new")

    assert link.is_symlink()
    assert old.with_name(name).read_bytes() == b"new"


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 255)

    files.check_writable(path)
    files.write(path, b"new")

    assert path.read_bytes() == b"new"


def test_a_pipe_is_written_to_as_it_is(tmp_path: Path) -> None:
    """As `--output >(gzip > file)` wants it; nobody could rename anything to it."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    files.check_writable(path)
    files.write(path, b"new")

    assert os.read(reader, 10) == b"new"
    assert stat.S_ISFIFO(path.stat().st_mode)
    os.close(reader)


def test_a_pipe_that_nobody_reads_is_an_error_and_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    with pytest.raises(StorageError, match="pipe cannot be written: No such device"):
        files.write(path, b"new")


def test_what_standard_output_goes_to_is_written_through_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A shell has opened that file: another one in its place would lose what else is printed."""
    files.write(Path("/dev/stdout"), b"trace\n")
    os.write(1, b"text\n")

    assert capfd.readouterr().out == "trace\ntext\n"


def test_a_full_device_is_told_with_its_name() -> None:
    with pytest.raises(StorageError, match="/dev/full cannot be written: No space left"):
        files.write(Path("/dev/full"), b"new")


PLACES = {
    "a folder": ".",
    "no such folder": "nowhere/file",
    "a file for a folder": "old.json/file",
    "a name too long": "a" * 256,
    "a name with NUL": "a\0b",
    "half a character": "\ud800",
    "a link to itself": "loop",
    "a link to no folder": "lost",
}


@pytest.mark.parametrize("place", list(PLACES))
def test_what_cannot_be_written_is_known_before_the_work_and_after(old: Path, place: str) -> None:
    old.with_name("loop").symlink_to("loop")
    old.with_name("lost").symlink_to("nowhere/file")
    path, before = old.parent / PLACES[place], _names(old.parent)

    with pytest.raises(SettingError, match="cannot be written: "):
        files.check_writable(path)
    with pytest.raises(StorageError, match="cannot be written: "):
        files.write(path, b"new")

    assert _names(old.parent) == before


def test_a_disk_without_room_is_known_before_the_work(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new name fits on many a full disk; what is in the file does not."""
    monkeypatch.setattr(files, "PROBE", bytes(5000))

    with small_files(), pytest.raises(SettingError, match="File too large"):
        files.check_writable(old)

    assert old.read_bytes() == b"old"
    assert _names(old.parent) == ["old.json"]


# -- reading -----------------------------------------------------------------------------------


def test_a_pipe_with_somebody_at_its_other_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    early = os.open(path, os.O_RDWR)  # holds it open while nobody else does
    os.write(early, b"a\nb\n")

    with files.opened(path) as file:
        os.close(early)
        found = list(files.lines(file))

    assert found == [b"a\n", b"b\n"]


def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    with pytest.raises(OSError, match="nobody writes to this pipe"):
        files.read(path)


def test_what_has_no_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_BYTES", 1 << 20)

    with pytest.raises(OSError, match="it is longer than 1 MB"):
        files.read(Path("/dev/zero"))
    with files.opened(Path("/dev/zero")) as file, pytest.raises(OSError, match="a line of it"):
        next(files.lines(file))


def test_a_line_ends_at_a_line_feed_and_nowhere_else(tmp_path: Path) -> None:
    text = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r\n".encode()
    path = tmp_path / "lines"
    path.write_bytes(text + b"two")

    with files.opened(path) as file:
        assert list(files.lines(file)) == [text, b"two"]


WRONG = {
    "UTF-16": (ROW.decode().encode("utf-16"), "it is in UTF-16; save it in UTF-8"),
    "Latin-1": ('"é"'.encode("latin-1"), "byte 2 is not UTF-8; save it in UTF-8"),
    "deep": (b"[" * 10**5, "nested too deep"),
    "names twice": (b'{"a": 1, "b": 2, "a": 3}', "the name 'a' is there twice"),
    "no number": (b"[NaN]", "NaN is no number of JSON"),
    "infinite": (b"[-Infinity]", "-Infinity is no number of JSON"),
    "too many digits": (b"9" * 5000, "Exceeds the limit"),
    "NUL": (b"\0", "Expecting value"),
    "nothing": (b"", "Expecting value"),
    "two values": (b"1 2", "Extra data"),
}


@pytest.mark.parametrize("kind", list(WRONG))
def test_what_is_no_json_is_told_in_one_line(kind: str) -> None:
    data, words = WRONG[kind]

    with pytest.raises(ValueError, match=words) as refused:
        files.parsed(data)

    assert "\n" not in str(refused.value)


def test_a_mark_of_utf_8_is_no_error() -> None:
    assert files.parsed(b"\xef\xbb\xbf" + ROW) == {"a": 1}
