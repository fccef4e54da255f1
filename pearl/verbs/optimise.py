"""`pearl optimise`: the best schedule, gamma and head start, and what another choice would cost."""

from __future__ import annotations

import csv
import io
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from decoding import files
from decoding.errors import SettingError
from decoding.settings import ScheduleName, Settings
from pearl.asking import what_if
from pearl.asking.options import options
from pearl.showing.terminal import print_json
from pearl.verbs.sweep import halfway

if TYPE_CHECKING:
    from simulator.optimise import Advice, Choice, Means, Placement, Tuning

CANDIDATES = [
    click.option("--candidates", "candidates_file", metavar="FILE",
                 help="Several drafts for one target, .csv or .json: name, alpha, and draft_ms or "
                 "speed_ratio; if wanted, draft_devices and draft_price."),
]  # fmt: skip

MEANS = [
    click.option("--devices", type=int, metavar="N", help="How many there are."),
    click.option("--target-devices", type=int, default=1, show_default=True, metavar="N",
                 help="What the target needs; AR and SD run there, the draft beside the target."),
    click.option("--draft-devices", type=int, default=1, show_default=True, metavar="N",
                 help="What the draft needs beside them; for PEARL."),
    click.option("--target-price", type=float, metavar="P",
                 help="Of one of the target's devices, an hour, in any currency."),
    click.option("--draft-price", type=float, metavar="P",
                 help="Of one of the draft's devices. [default: the target's]"),
]  # fmt: skip

NO_CHANCE: Final = {"jitter": 0.0, "link_jitter_ms": 0.0}
RESTING: Final = Settings(schedule=ScheduleName.AR)  # a profile's times while the draft rests
NEEDED: Final = ("name", "alpha")
COLUMNS: Final = (*NEEDED, "draft_ms", "speed_ratio", "draft_devices", "draft_price")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one pair, with each choice on its devices."""

    name: str | None
    best: Placement
    placements: tuple[Placement, ...]
    advice: Advice


@click.command(name="optimise")
@options(what_if.CERTAIN, CANDIDATES, MEANS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool, candidates_file: str | None, **given: Any) -> None:
    """Find the best schedule, gamma and head start; with candidates, the best draft.

    All figures are expectations, so there are no intervals. Speed is that of one request.
    """
    means = _means(given)
    if candidates_file is None:
        found = [_of_pair(given, means)]
    else:
        found = _of_candidates(candidates_file, given, means)
    if as_json:
        several = candidates_file is not None
        answer = {"winner": found[0].name, "candidates": found} if several else found[0]
        print_json(answer)
    elif candidates_file is None:
        _show(found[0], means)
    else:
        _show_candidates(found, means)


# -- the question ------------------------------------------------------------------------------


def _means(given: Mapping[str, Any]) -> Means:
    from simulator.optimise import Means

    for name in ("target_devices", "draft_devices"):
        what_if.check_number(given[name], name.replace("_", "-"), "1 or more", lambda n: n >= 1)
    for name in ("target_price", "draft_price"):
        what_if.check_number(given[name], name.replace("_", "-"), "more than 0", lambda p: p > 0)
    least = given["target_devices"]
    allowed = f"at least target-devices, {least}"
    what_if.check_number(given["devices"], "devices", allowed, lambda n: n >= least)
    if given["draft_price"] is not None and given["target_price"] is None:
        raise what_if.refuse("draft-price", given["draft_price"], "given with target-price")
    return Means(**{name: given[name] for name in Means.__struct_fields__})


def _of_pair(given: Mapping[str, Any], means: Means) -> Found:
    """One pair, from options or a profile."""
    from simulator.optimise import advise
    from simulator.twin import Times

    profile = what_if.read_profile(given["profile_file"])
    every = {**given, **NO_CHANCE}
    context = 1 if profile is None else halfway(profile)
    times = Times(what_if.pair(every, profile, RESTING), what_if.network(every, profile), context)
    return _found(None, advise(what_if.acceptance(every, profile), times), means)


def _of_candidates(file: str, given: Mapping[str, Any], means: Means) -> list[Found]:
    """One pair for each draft, the fastest first."""
    for name in ("alpha", "acceptance", "speed_ratio", "profile_file"):
        if given[name] is not None:
            option = name.removesuffix("_file").replace("_", "-")
            raise what_if.refuse(option, given[name], "left out with candidates: the file says it")
    what_if.check_number(given["target_ms"], "target-ms", "more than 0", lambda ms: ms > 0)
    target_ms = given["target_ms"] or what_if.TARGET_MS
    found = [_of_candidate(one, given, means) for one in read_candidates(file, target_ms)]
    return sorted(found, key=lambda one: -one.best.choice.tokens_per_s)


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A draft that one could take."""

    name: str
    alpha: float
    speed_ratio: float
    draft_devices: int | None = None
    draft_price: float | None = None


def _of_candidate(candidate: Candidate, given: Mapping[str, Any], means: Means) -> Found:
    from simulator.acceptance import Independent
    from simulator.optimise import advise
    from simulator.twin import Times

    every = {**given, **NO_CHANCE, "speed_ratio": candidate.speed_ratio}
    times = Times(what_if.pair(every, None, RESTING), what_if.network(every, None))
    own = {"draft_devices": candidate.draft_devices, "draft_price": candidate.draft_price}
    means = msgspec.structs.replace(means, **{k: v for k, v in own.items() if v is not None})
    return _found(candidate.name, advise(Independent(candidate.alpha), times), means)


def _found(name: str | None, advice: Advice, means: Means) -> Found:
    from simulator.optimise import foremost, placed

    placements = tuple(placed(choice, means) for choice in advice.choices)
    return Found(name=name, best=foremost(placements), placements=placements, advice=advice)


# -- candidates --------------------------------------------------------------------------------


def read_candidates(file: str, target_ms: float) -> list[Candidate]:
    """The drafts in a file.

    Raises:
        SettingError: there are none, or one cannot be; the line says where.
    """
    path = pathlib.Path(file)
    readers = {".csv": _csv_rows, ".json": _json_rows}
    if path.suffix.lower() not in readers:
        raise what_if.refuse("candidates", file, f"a name that ends in {' or '.join(readers)}")
    try:
        text = files.text(files.read(path))
    except (OSError, ValueError) as error:
        why = files.reason(error) if isinstance(error, OSError) else error
        message = f"the candidates cannot be read from {file}: {why}"
        raise SettingError(message) from None
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


# -- the readable answer -----------------------------------------------------------------------


def _show(found: Found, means: Means) -> None:
    """The choices, what each takes, and the two curves."""
    console, advice = Console(highlight=False), found.advice
    console.print(f"alpha {advice.alpha:.4g}, speed ratio {advice.speed_ratio:.4g}")
    console.print(_choices(found))
    console.print(_takings({_name(p.choice): p for p in found.placements}, found.best, means))
    console.print(_verdict(found.best, means))
    for line in _others(found):
        console.print(line)
    console.print(_curves(found.advice.sd, found.advice.pearl))


def _choices(found: Found) -> Table:
    """How fast each one is, and how far its gamma may be off."""
    table = _table("", "speed over AR", "tokens/s", "gamma within 5 %")
    near = {tuning.choice: tuning.plateau for tuning in (found.advice.sd, found.advice.pearl)}
    for placement in found.placements:
        choice = placement.choice
        plateau = near.get(choice)
        table.add_row(
            _name(choice),
            f"{choice.speedup_over_ar:.3f}",
            f"{choice.tokens_per_s:.4g}",
            "" if plateau is None else f"{plateau.first} to {plateau.last}",
            style="bold" if placement == found.best else "",
        )
    return table


def _takings(placements: Mapping[str, Placement], best: Placement, means: Means) -> Table:
    """Which devices each one takes, and what it gives for them."""
    names = ["devices", "speed per device"]
    names += ["copies", "tokens/s of all"] if means.devices is not None else []
    names += ["tokens per price"] if means.target_price is not None else []
    table = _table("", *names)
    for name, placement in placements.items():
        cells = [TAKINGS[column](placement) for column in names]
        table.add_row(name, *cells, style="bold" if placement == best else "")
    return table


TAKINGS: Final[Mapping[str, Callable[[Placement], str]]] = {
    "devices": lambda p: f"{p.devices}{'' if p.fits else ', too many'}",
    "speed per device": lambda p: f"{p.speedup_per_device:.3f}",
    "copies": lambda p: f"{p.copies}",
    "tokens/s of all": lambda p: f"{p.total_tokens_per_s:.4g}",
    "tokens per price": lambda p: f"{p.tokens_per_price:,.0f}",
}
"""By the head of the column."""


def _verdict(best: Placement, means: Means) -> str:
    within = "" if means.devices is None else f" on {means.devices} devices"
    speed = best.choice.speedup_over_ar
    return f"fastest{within}: {_name(best.choice)}, {speed:.3g} times AR"


def _others(found: Found) -> Iterator[str]:
    """Whoever is ahead by another measure."""
    measures: dict[str, Callable[[Placement], float]] = {
        "fastest per device": lambda p: p.speedup_per_device,
        "most tokens from all devices": lambda p: p.total_tokens_per_s or 0.0,
        "most tokens for the price": lambda p: p.tokens_per_price or 0.0,
    }
    for words, measure in measures.items():
        first = max((p for p in found.placements if p.fits), key=measure)
        if measure(first) > measure(found.best):
            yield f"{words}: {_name(first.choice)}"


def _name(choice: Choice) -> str:
    gamma = f", gamma {choice.gamma}" if choice.gamma else ""
    ahead = f", head start {choice.head_start}" if choice.head_start else ""
    return f"{choice.schedule.upper()}{gamma}{ahead}"


def _curves(sd: Tuning, pearl: Tuning) -> Table:
    """Speed over AR against gamma, and what is lost to the best."""
    ahead = pearl.choice.head_start
    pearl_head = f"PEARL, head start {ahead}" if ahead else "PEARL"
    table = _table("gamma", "SD", "lost", pearl_head, "lost")
    for one, other in zip(sd.windows, pearl.windows, strict=True):
        cells = [f"{one.speedup_over_ar:.3f}", _loss(one.loss)]
        cells += [f"{other.speedup_over_ar:.3f}", _loss(other.loss)]
        table.add_row(str(one.gamma), *cells)
    return table


def _loss(loss: float) -> str:
    return f"{loss:.1%}" if loss else "best"


def _show_candidates(found: Sequence[Found], means: Means) -> None:
    """A row a draft, the winner first."""
    table = _table("draft", "best schedule", "speed over AR", "alpha", "speed ratio")
    for place, one in enumerate(found):
        table.add_row(
            one.name,
            _name(one.best.choice),
            f"{one.best.choice.speedup_over_ar:.3f}",
            f"{one.advice.alpha:.4g}",
            f"{one.advice.speed_ratio:.4g}",
            style="" if place else "bold",
        )
    console, winner = Console(highlight=False), found[0]
    console.print(table)
    console.print(_takings({str(one.name): one.best for one in found}, winner.best, means))
    console.print(f"{winner.name} is the best draft; {_verdict(winner.best, means)}")


def _table(*heads: str) -> Table:
    """Words to the left, numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for head in heads:
        words = head in {"", "draft", "best schedule"}
        table.add_column(head, justify="left" if words else "right", no_wrap=words)
    return table
