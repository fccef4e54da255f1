"""A figure as a file, or in memory for a page or a notebook."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pearl.decoding import files
from pearl.decoding.errors import SettingError

SUFFIXES: Final = (".png", ".svg")


def check_figure_path(file: str | Path) -> Path:
    """Where a figure is to go; for callers that want to know before a long run.

    Raises:
        SettingError: its name does not say that it is a PNG or an SVG.
    """
    path = Path(file)
    if path.suffix.lower() not in SUFFIXES:
        allowed = " or ".join(SUFFIXES)
        raise SettingError(f"{path} cannot hold a figure; its name must end in {allowed}")
    return path


def save(
    path: str | Path, draw: Callable[[Axes], object], *, size: tuple[float, float] = (9.0, 3.2)
) -> None:
    """Draw one figure into a file, PNG or SVG by its name; the same figure gives the same bytes.

    Args:
        path: the file.
        draw: what puts the figure on its axes.
        size: width and height in inches.

    Raises:
        SettingError: the name says neither; nothing has been drawn then.
    """
    checked = check_figure_path(path)
    files.write(checked, _drawn(draw, size, checked.suffix.lower()[1:]))


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawn figure, as text that a page can hold and that a notebook shows."""

    svg: str

    def __repr__(self) -> str:
        return f"<a figure, {len(self.svg)} characters of SVG>"

    def _repr_svg_(self) -> str:
        return self.svg


def picture(draw: Callable[[Axes], object], *, size: tuple[float, float] = (9.0, 3.2)) -> Picture:
    """Draw one figure to be shown in a notebook, or to be put into a page beside others.

    Its words stay words: they can be searched, and a reader's fonts fit any screen.
    """
    text = _drawn(draw, size, "svg", {"svg.fonttype": "none"}).decode()
    text = text[text.index("<svg") :]
    # Several on one page: what one defines, another must not find.
    name = hashlib.sha256(text.encode()).hexdigest()[:8]
    for before in (' id="', 'href="#', "url(#"):
        text = text.replace(before, f"{before}{name}-")
    return Picture(text)


def _drawn(
    draw: Callable[[Axes], object],
    size: tuple[float, float],
    kind: str,
    settings: Mapping[Any, Any] | None = None,
) -> bytes:
    """The file's bytes; the same figure gives the same ones."""
    fixed: dict[Any, Any] = {"svg.hashsalt": "pearl", "hatch.linewidth": 0.8}
    with mpl.rc_context({**fixed, **(settings or {})}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        metadata = {"Date": None} if kind == "svg" else None
        data = io.BytesIO()
        figure.savefig(data, format=kind, dpi=160, metadata=metadata)
    return data.getvalue()
