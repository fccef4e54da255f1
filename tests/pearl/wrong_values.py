"""Every option of every verb, and what somebody may type there by mistake.

The options are asked of the commands themselves, so one that is added tomorrow is in the table by
itself. A value is *never* right, or perhaps: then one line is as good as a right answer.
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import click

from pearl.__main__ import VERBS, pearl

LINES: Final[Mapping[str, list[str]]] = {
    "generate": ["hello"],
    "demo": ["--trace", "OUT/demo.json"],
    "bench": ["--count", "2"],
    "simulate": ["--tokens", "4", "--replications", "2"],
    "replay": ["IN/trace.json"],
    "profile": ["--output", "OUT/profile.json"],
    "predict": ["--profile", "IN/profile.json", "--gamma", "2", "--schedules", "pearl"],
    "sweep": ["--runs", "16", "--schedules", "pearl"],
    "optimise": [],
    "theory": [],
    "validate": [],
    "doctor": [],
}
"""A right line for each verb, and a quick one; where an option is tried, it has its place here."""

READ: Final = {"prompts_file", "prompt_file", "profile_file", "candidates_file", "files", "file"}
NAMES: Final = {"target", "draft", "ray_address"}
"""Of models and clusters: read by those who open them, who have tests of their own."""

NO_NUMBERS: Final = {
    "empty": "",
    "blank": " ",
    "a word": "many",
    "not a number": "nan",
    "minus nan": "-nan",
    "hexadecimal": "0x10",
    "two numbers": "1 2",
    "a comma": "1,,2,",
    "nothing but NUL": "1\0",
    "half a character": "\udcff",
    "a sum": "1+1",
    "a flag": "--",
}
ODD_NUMBERS: Final = {
    "infinity": "inf",
    "minus infinity": "-inf",
    "the largest": "1e308",
    "beyond the largest": "1e400",
    "next to nothing": "1e-320",
    "less than nothing": "-1",
    "zero": "0",
    "minus zero": "-0",
    "thirty digits": "9" * 30,
    "five thousand digits": "9" * 5000,
    "a million million": "1000000000000",
    "with an underscore": "1_000",
    "in Arabic digits": "٣",
    "a fraction": "1.5",
    "with an exponent": "1e3",
}
RANGES: Final = {
    "without a step": "0:1",
    "with a step of zero": "0:1:0",
    "downwards": "1:0:0.1",
    "with a step down": "0:1:-0.1",
    "with a step that is none": "0:1:nan",
    "from nowhere": "nan:1:1",
    "to infinity": "0:inf:1",
    "from infinity": "inf:inf:1",
    "of a thousand million points": "0:1:1e-9",
    "of more points than digits": "0:1:1e-999999",
    "to the end of decimals": "0:1e999999999:1",
    "of four": "0:1:2:3",
    "of nothing": "::",
}
LISTS: Final = {
    "a list with nan": "1,nan",
    "a list with a blank": "1, ,2",
    "commas alone": ",,",
    "a list of words": "a,b",
    "a list with an end": "1,2,",
}
NUMBERS_OF_KINDS: Final = (
    *("", "nan", "inf", "-1", "0", "1e308", "1e-320", "9" * 30, "x"),
    *("1,nan", "1,1e308", "1e308,1e308", ".5,.5,.5,.5,.5,.5,.5,.5", "1e-320,1e-320", "1,", "2,1"),
)
FAULTS: Final = (
    *("draft", "draft:crash:2", "draft:crash:nan:1", "draft:crash:0:1e308", "moon:crash:0:1"),
    *("target:slow:0:1:inf", "target:slow:0:1:1e-320", "draft:stall:-1:1", "draft:stall:0:0"),
)
MIXTURES: Final = tuple(
    f"mixture:{parts}"
    for parts in ("0.5*0", "0.5*nan", "2*1", "0.5*1e308,0.4*1e308", "0.5", "*", "0.5*1*1", "")
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line to type; `never` where it cannot be right."""

    option: str
    kind: str
    line: list[str]
    never: bool

    def typed(self, folders: Mapping[str, Path]) -> list[str]:
        """With the folders of this run in place of IN and OUT."""
        return [_in_place(word, folders) for word in self.line]


def _in_place(word: str, folders: Mapping[str, Path]) -> str:
    for name, folder in folders.items():
        word = word.replace(f"{name}/", f"{folder}/")
    return word


def cases() -> dict[str, list[Case]]:
    """All of them, by verb and option."""
    found: dict[str, list[Case]] = {}
    for verb, parameter in _parameters():
        option = f"{verb} {parameter.name}"
        for value in _values(parameter):
            line = [verb, *_line(LINES[verb], parameter, value.text)]
            case = Case(option=option, kind=value.kind, line=line, never=value.never)
            found.setdefault(option, []).append(case)
    return found


def _parameters() -> Iterator[tuple[str, click.Parameter]]:
    """Of every verb what takes a value, but for names of models, which are not ours to read."""
    context = click.Context(pearl)
    for verb in VERBS:
        command = pearl.get_command(context, verb)
        assert command is not None, "the group names only what it has"
        for parameter in command.params:
            flag = isinstance(parameter, click.Option) and parameter.is_flag
            if not flag and parameter.name not in NAMES:
                yield verb, parameter


def _line(right: list[str], parameter: click.Parameter, value: str) -> list[str]:
    """The right line, with a value in place of the right one."""
    if isinstance(parameter, click.Argument):
        return ["--", value]
    name, rest = parameter.opts[0], list(right)
    if name in rest:
        place = rest.index(name)
        del rest[place : place + 2]
    return [*rest, f"{name}={value}"]


# -- values ------------------------------------------------------------------------------------


class Value(NamedTuple):
    """What is typed, of which kind it is, and whether it can never be right."""

    kind: str
    text: str
    never: bool = False


def _values(parameter: click.Parameter) -> Iterator[Value]:
    """What is tried at one place."""
    if parameter.name in READ:
        yield from (Value(f"reads {k}", f"IN/{k}", k not in PERHAPS_READ) for k in FILES)
    elif _is_written(parameter):
        end = _suffix(parameter)
        for kind in sorted(PLACES - (MADE if end == "" else set())):
            yield Value(f"writes {kind}", f"OUT/{kind}{end}", kind not in PERHAPS_WRITTEN)
    elif isinstance(parameter.type, click.Choice):
        yield from (Value(kind, text, never=True) for kind, text in NO_NUMBERS.items())
    else:
        yield from _numbers(parameter)


def _is_written(parameter: click.Parameter) -> bool:
    metavar = (parameter.metavar or "").partition(":")[0]
    return metavar.startswith(("FILE", "FOLDER"))


def _numbers(parameter: click.Parameter) -> Iterator[Value]:
    """Numbers where one is wanted, or a list, or a kind with its numbers."""
    one = isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType)
    yield from (Value(kind, text, one) for kind, text in NO_NUMBERS.items())
    yield from (Value(kind, text) for kind, text in ODD_NUMBERS.items())
    if not one:
        yield from (Value(f"a range {kind}", text) for kind, text in RANGES.items())
        yield from (Value(kind, text) for kind, text in LISTS.items())
        yield from _kinds(parameter)


def _kinds(parameter: click.Parameter) -> Iterator[Value]:
    """`kind:number,number`, of the kinds that the help names."""
    for kind in dict.fromkeys(re.findall(r"\b([a-z]+):[A-Z]", _help(parameter))):
        if kind in {"replay", "file"}:
            for file in FILES:
                text, never = f"{kind}:IN/{file}", file not in PERHAPS_READ
                yield Value(f"{kind} of {file}", text, never)
        else:
            for numbers in NUMBERS_OF_KINDS:
                yield Value(f"{kind} of {numbers[:20]}", f"{kind}:{numbers}")
    more = {"acceptance": MIXTURES, "faults": FAULTS}.get(parameter.name or "", ())
    yield from (Value(text[:20], text) for text in more)


def _help(parameter: click.Parameter) -> str:
    words = getattr(parameter, "help", None) or ""
    return "constant:MS affine:MS roofline:GB" if words == "The same for the target." else words


# -- files -------------------------------------------------------------------------------------


def _suffix(parameter: click.Parameter) -> str:
    """Of a name that the option takes."""
    metavar, name = parameter.metavar or "", parameter.name
    if name == "figure_file":
        return ".svg"
    if metavar == "FOLDER":
        return ""
    return ".html" if "html" in metavar else ".json"


ROW: Final = '{"prompt": "a", "name": "x", "alpha": 0.5, "speed_ratio": 2, "version": 2}'
FILES: Final[Mapping[str, bytes | None]] = {
    "missing.json": None,
    "a folder.json": None,
    "a link to nowhere.json": None,
    "a pipe that nobody writes.json": None,
    "no such folder/file.json": None,
    "a file/as a folder.json": None,
    "a" * 300 + ".json": None,
    "with NUL\0.json": None,
    "half a character \udcff.json": None,
    "empty.json": b"",
    "blank.json": b" \n\t\n",
    "a mark alone.json": b"\xef\xbb\xbf",
    "latin-1.json": '{"prompt": "é"}'.encode("latin-1"),
    "utf-16.json": ROW.encode("utf-16"),
    "NULs.json": bytes(4096),
    "binary.json": bytes(range(256)) * 64,
    "deep lists.json": b"[" * 100_000,
    "deep objects.json": b'{"prompt":' * 100_000,
    "deep and whole.json": b"[" * 5_000 + b"]" * 5_000,
    "a number.json": b"1",
    "null.json": b"null",
    "a huge number.json": b'{"version": ' + b"9" * 5_000 + b', "prompt": 1}',
    "nan.json": b'{"version": NaN, "prompt": NaN}',
    "infinite.json": b'{"version": 1e999, "prompt": [1e999]}',
    "names twice.json": b'{"version": 1, "version": 3, "prompt": "a", "prompt": 1}',
    "half a character inside.json": b'{"prompt": "\\ud800"}',
    "cut.json": ROW[:20].encode(),
    "a list.json": b"[]",
    "a list of lists.json": b"[[]]",
    "a list in a list of objects.json": b'[{"name": [], "alpha": {}, "speed_ratio": []}]',
    "a header alone.json": b"[\n",
    "a header of another.json": b'[\n{"args":{"header":{"version":99}}},\n',
    "a header with nothing.json": b'[\n{"args":{"header":{}}},\n',
    "a deep trace.json": b'[\n{"args":' + b"[" * 100_000 + b"},\n",
    "a cut archive.json": gzip.compress(b"[\n" * 10_000)[:50],
    "a wrong archive.json": b"\x1f\x8b" + b"x" * 100,
    "a bomb.json": gzip.compress(bytes(50_000_000)),
}
PERHAPS_READ: Final = {
    *("latin-1.json", "names twice.json", "deep and whole.json", "a mark alone.json"),
    *("half a character inside.json", "a header with nothing.json", "a huge number.json"),
    # As the text of a prompt these are words like others.
    *("blank.json", "a number.json", "null.json", "cut.json", "a list.json", "nan.json"),
    *("a list of lists.json", "a list in a list of objects.json", "a header alone.json"),
    *("a header of another.json", "infinite.json", "deep lists.json", "deep objects.json"),
    *("NULs.json", "a deep trace.json"),
}
PLACES: Final = {
    "no such folder/file",
    "a file/as a folder",
    "a folder",
    "a" * 300,
    "with NUL\0",
    "a link to no folder",
    "a link to itself",
    "half a character \udcff",
    "full",
    "a link to nowhere",
}
MADE: Final = {"no such folder/file"}
"""Where a folder is wanted, it is made."""
PERHAPS_WRITTEN: Final = {"half a character \udcff", "a link to nowhere", "full", "a folder"}


def lay(folder: Path) -> None:
    """The files that are read, whatever can be laid of them."""
    for name, data in FILES.items():
        if data is not None:
            (folder / name).write_bytes(data)
    (folder / "a folder.json").mkdir()
    (folder / "a file").write_bytes(b"")
    (folder / "a link to nowhere.json").symlink_to(folder / "nothing here")
    os.mkfifo(folder / "a pipe that nobody writes.json")


def lay_places(folder: Path) -> None:
    """The places where nothing can be written."""
    (folder / "a file").write_bytes(b"")
    for suffix in ("", ".svg", ".json", ".html"):
        if suffix:
            (folder / f"a folder{suffix}").mkdir()
        (folder / f"a link to no folder{suffix}").symlink_to(folder / "nowhere" / "file")
        (folder / f"a link to itself{suffix}").symlink_to(folder / f"a link to itself{suffix}")
        (folder / f"a link to nowhere{suffix}").symlink_to(folder / f"new{suffix}")
        (folder / f"full{suffix}").symlink_to("/dev/full")
