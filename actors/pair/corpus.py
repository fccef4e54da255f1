"""The text the pair learns from: Python sources that every machine with this project already has.

Two kinds of source: the standard library of the running interpreter, and the installed packages
whose own metadata states a permissive licence. A package without such a statement is left out and
listed with its reason. What is kept should read as if a person had written it, so tables, generated
files, vendored copies and near-duplicates are dropped, and no package gives more than its cap.

The split is by a hash of the path: it does not depend on the machine, the order or a seed.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from importlib.metadata import Distribution, PackageMetadata, distributions
from pathlib import Path
from typing import Final

STANDARD_LIBRARY: Final = "python-stdlib"
_OWN: Final = "pearl-decoding"
HELD_OUT_SHARE: Final = 0.05
TESTS_KEPT_SHARE: Final = 0.12

_PERMISSIVE = re.compile(
    r"\b(MIT|BSD|0BSD|APACHE|ISC|PSF|UNLICENSE|ZLIB|CC0|BSL|CNRI|LLVM)\b", re.IGNORECASE
)
_RESTRICTIVE = re.compile(r"GPL|MPL|MOZILLA|EPL|CDDL|PROPRIETARY|COMMERCIAL", re.IGNORECASE)
_SKIPPED_FOLDERS: Final = frozenset(
    {
        *("site-packages", "__pycache__", "encodings", "pydoc_data", "lib2to3", "locale"),
        *("vendor", "vendored", "_vendor", "extern", "externals"),
        *("thirdparty", "third_party", "_thirdparty", "thirdparty_files"),
        *("generated", "unicode_data"),
    }
)
_TEST_PATH = re.compile(
    r"(^|/)(tests?|testing|idle_test|benchmarks?)/|(^|/)(test_|conftest)|_test\.py$"
)
_GENERATED = re.compile(
    r"generated (by|from|automatically)|automatically generated|auto-?generated|do not edit",
    re.IGNORECASE,
)
_LICENCE_WORDS = re.compile(r"copyright|licen[sc]e|spdx|all rights reserved", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One package (or the standard library), its licence, and the Python files it installed."""

    name: str
    version: str
    licence: str
    files: tuple[tuple[str, Path], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One cleaned file; `path` is relative to its source and does not depend on the machine."""

    source: str
    path: str
    text: str

    @property
    def held_out(self) -> bool:
        """Whether this document is kept away from training."""
        return is_held_out(self.source, self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one source gave to the corpus."""

    name: str
    version: str
    licence: str
    documents: int = 0
    characters: int = 0


def fraction(name: str) -> float:
    """A number in [0, 1) that depends on nothing but the name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64


def is_held_out(source: str, path: str) -> bool:
    """Whether this file of this source is kept away from training."""
    return fraction(f"{source}/{path}") < HELD_OUT_SHARE


def stated_licence(metadata: PackageMetadata) -> str:
    """What the package says about its own licence, on one line; empty when it says nothing."""
    classifiers = [
        line.split("::")[-1].strip()
        for line in metadata.get_all("Classifier") or []
        if line.startswith("License ::")
    ]
    words = str(_field(metadata, "License-Expression") or _field(metadata, "License")).strip()
    line = words.splitlines()[0].strip() if words else ""
    return line or " AND ".join(classifiers)


def _field(metadata: PackageMetadata, name: str) -> str:
    return str(metadata[name]) if name in metadata else ""


def is_permissive(licence: str) -> bool:
    """Whether a stated licence is known to be permissive and names nothing that is not."""
    return bool(_PERMISSIVE.search(licence)) and not _RESTRICTIVE.search(licence)


def standard_library() -> Source:
    """The running interpreter's own library, with one test file in eight."""
    root = Path(sysconfig.get_path("stdlib"))
    names = ((path.relative_to(root).as_posix(), path) for path in root.rglob("*.py"))
    return Source(
        name=STANDARD_LIBRARY,
        version=".".join(map(str, sys.version_info[:3])),
        licence="PSF-2.0",
        files=tuple(sorted((n, p) for n, p in names if _is_wanted(n) and _keeps_test(n))),
    )


def packages() -> tuple[list[Source], list[Share]]:
    """The installed packages that may be used, and those that may not with what they state."""
    used, refused = [], []
    installed = (package for package in distributions() if package.name != _OWN)
    for package in sorted(installed, key=lambda item: item.name.lower()):
        licence = stated_licence(package.metadata)
        if is_permissive(licence):
            used.append(_source(package, licence))
        else:
            stated = licence or "none stated"
            refused.append(Share(name=package.name, version=package.version, licence=stated))
    return [source for source in used if source.files], refused


def _source(package: Distribution, licence: str) -> Source:
    names = [str(name) for name in package.files or [] if str(name).endswith(".py")]
    wanted = [name for name in names if _is_wanted(name) and not _TEST_PATH.search(name)]
    return Source(
        name=package.name,
        version=package.version,
        licence=licence,
        files=tuple(sorted((name, Path(str(package.locate_file(name)))) for name in wanted)),
    )


def _is_wanted(name: str) -> bool:
    return not name.startswith("..") and _SKIPPED_FOLDERS.isdisjoint(name.split("/"))


def _keeps_test(name: str) -> bool:
    return not _TEST_PATH.search(name) or fraction(f"test:{name}") < TESTS_KEPT_SHARE


def cleaned(text: str) -> str:
    """The text without its licence header, trailing blanks and tabs."""
    lines = [line.rstrip() for line in text.expandtabs(4).splitlines()]
    header = next((i for i, line in enumerate(lines) if line and not line.startswith("#")), 0)
    if _LICENCE_WORDS.search("\n".join(lines[:header])):
        lines = lines[header:]
    return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines).strip("\n")) + "\n"


def reads_like_code(text: str) -> bool:
    """Whether a person might have written this file: no table, no generated or foreign text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not 200 <= len(text) <= 250_000 or _GENERATED.search(text[:1500]):
        return False
    tabular = sum(line[0] in "'\"0123456789([{-" and line[-1] in ",]})" for line in lines)
    foreign = sum(character > "\x7f" for character in text)
    digits = sum(map(text.count, "0123456789"))
    return (
        max(map(len, lines)) <= 300
        and tabular <= 0.35 * len(lines)
        and foreign <= 0.01 * len(text)
        and digits <= 0.10 * len(text)
    )


class _Novelty:
    """Tells whether most of a text's longer lines have not been seen before."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def accepts(self, text: str) -> bool:
        lines = {hash(line.strip()) for line in text.splitlines() if len(line.strip()) >= 24}
        new = lines - self._seen
        if len(new) <= 0.6 * len(lines):
            return False
        self._seen |= new
        return True


def documents(source: Source, cap: int | None) -> Iterator[Document]:
    """The readable files of one source in an order fixed by their names, up to `cap` characters."""
    novelty, room = _Novelty(), cap if cap is not None else sys.maxsize
    for name, path in sorted(source.files, key=lambda item: fraction(item[0])):
        text = _text(path)
        if len(text) <= room and reads_like_code(text) and novelty.accepts(text):
            room -= len(text)
            yield Document(source=source.name, path=name, text=text)


def _text(path: Path) -> str:
    try:
        return cleaned(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):  # a few installed files are deliberately broken
        return ""


def held_out_library() -> list[Document]:
    """The held-out files of the standard library: the same on every machine with this Python."""
    library = standard_library()
    files = ((name, path) for name, path in library.files if is_held_out(library.name, name))
    return list(documents(replace(library, files=tuple(files)), cap=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """All documents, what each source gave, and what was left out because of its licence."""

    documents: tuple[Document, ...]
    shares: tuple[Share, ...]
    refused: tuple[Share, ...]


def collect(sources: Iterable[Source], refused: Iterable[Share], cap: int) -> Corpus:
    """Read every source; the standard library is not capped."""
    kept: list[Document] = []
    shares: list[Share] = []
    for source in sources:
        own = list(documents(source, None if source.name == STANDARD_LIBRARY else cap))
        kept += own
        shares.append(
            Share(
                name=source.name,
                version=source.version,
                licence=source.licence,
                documents=len(own),
                characters=sum(len(document.text) for document in own),
            )
        )
    kept.sort(key=lambda document: fraction(f"order:{document.source}/{document.path}"))
    return Corpus(documents=tuple(kept), shares=tuple(shares), refused=tuple(refused))
