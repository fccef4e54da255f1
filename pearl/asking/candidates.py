"""Drafts that one could take for a target, as a file lists them."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from pearl.asking.values import or_refuse, refuse
from pearl.decoding import files
from pearl.decoding.errors import SettingError

NEEDED: Final = ("name", "alpha")

COLUMNS: Final = (*NEEDED, "draft_ms", "speed_ratio", "draft_devices", "draft_price")


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A draft that one could take."""

    name: str
    alpha: float
    speed_ratio: float
    draft_devices: int | None = None
    draft_price: float | None = None


def read_candidates(file: str, target_ms: float) -> list[Candidate]:
    """The drafts in a file.

    Raises:
        SettingError: there are none, or one cannot be; the line says where.
    """
    path = pathlib.Path(file)
    readers = {".csv": _csv_rows, ".json": _json_rows}
    if path.suffix.lower() not in readers:
        raise refuse("candidates", file, f"a name that ends in {' or '.join(readers)}")
    with or_refuse(SettingError, f"the candidates cannot be read from {file}"):
        text = files.text(files.read(path))
    rows = readers[path.suffix.lower()](file, text)
    found: dict[str, Candidate] = {}
    for cells in rows:
        candidate = _candidate(cells, target_ms)
        if candidate.name in found:
            raise cells.refusal("name", f"{candidate.name} is there twice")
        found[candidate.name] = candidate
    if not found:
        raise SettingError(f"{file} has no candidates; it takes columns {', '.join(COLUMNS)}")
    return list(found.values())


def _csv_rows(file: str, text: str) -> Iterator[Cells]:
    """Each line under the names of the first; an empty cell says nothing."""
    (_, names), *lines = [*_csv_lines(file, text)] or [(1, [])]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise SettingError(f"{file}, line 1: the column {twice[0]} is there twice")
    for line, cells in lines:
        if len(cells) > len(names):
            raise SettingError(f"{file}, line {line}: {len(cells)} cells in {len(names)} columns")
        yield Cells(file, line, {k: v for k, v in zip(names, cells, strict=False) if v})


def _csv_lines(file: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not empty, by number."""
    reader = csv.reader(io.StringIO(text))  # whose lines end at line feeds only
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise SettingError(f"{file}, line {reader.line_num}: {error}") from None


def _json_rows(file: str, text: str) -> Iterator[Cells]:
    """The objects of a list; what is null says nothing."""
    try:
        entries = files.parsed(text.encode())
    except json.JSONDecodeError as error:
        where = f"{file}, line {error.lineno}, column {error.colno}"
        raise SettingError(f"{where}: {error.msg}") from None
    except ValueError as error:
        raise SettingError(f"{file}: {error}") from None
    if not isinstance(entries, list):
        raise SettingError(f"{file}, line 1: a list of objects is wanted")
    decoder, between, place = json.JSONDecoder(), re.compile(r"[\s,]*"), text.index("[") + 1
    for entry in entries:
        gap = between.match(text, place)
        start = place if gap is None else gap.end()
        line = text.count("\n", 0, start) + 1
        if not isinstance(entry, dict):
            raise SettingError(f"{file}, line {line}: {entry!r} is no object")
        yield Cells(file, line, {k: v for k, v in entry.items() if v is not None})
        _, place = decoder.raw_decode(text, start)


class Cells:
    """One row of a file, that can say what is wrong with it."""

    def __init__(self, file: str, line: int, given: Mapping[str, Any]) -> None:
        self._where = f"{file}, line {line}"
        self._given = given
        for column in given:
            if column not in COLUMNS:
                raise self.refusal(column, f"is not known; known are {', '.join(COLUMNS)}")
        for column in NEEDED:
            if column not in given:
                raise self.refusal(column, "is missing")

    def __contains__(self, column: str) -> bool:
        return column in self._given

    def refusal(self, column: str, complaint: str) -> SettingError:
        """The one line."""
        return SettingError(f"{self._where}, column {column}: {complaint}")

    def text(self, column: str) -> str:
        """As it stands there."""
        return str(self._given[column])

    def number(self, column: str, allowed: str, fine: Callable[[float], bool]) -> float | None:
        """None where there is none."""
        if column not in self:
            return None
        try:
            value = float(self._given[column])
        except (TypeError, ValueError):
            value = math.nan
        if not (math.isfinite(value) and fine(value)):
            raise self.refusal(column, f"{self.text(column)} is not {allowed}")
        return value


def _candidate(cells: Cells, target_ms: float) -> Candidate:
    def above_0(column: str) -> float | None:
        return cells.number(column, "a number above 0", lambda value: value > 0)

    alpha = cells.number("alpha", "a number from 0 to 1", lambda a: 0 <= a <= 1)
    draft_ms, ratio = above_0("draft_ms"), above_0("speed_ratio")
    if (draft_ms is None) == (ratio is None):
        told = "missing, and so is draft_ms" if ratio is None else "given, and so is draft_ms"
        raise cells.refusal("speed_ratio", f"is {told}; give one of them")
    devices = cells.number(
        "draft_devices", "a whole number above 0", lambda n: n >= 1 and n.is_integer()
    )
    assert alpha is not None, "the row has it"
    return Candidate(
        name=cells.text("name"),
        alpha=alpha,
        speed_ratio=ratio or target_ms / (draft_ms or math.nan),
        draft_devices=None if devices is None else int(devices),
        draft_price=above_0("draft_price"),
    )
