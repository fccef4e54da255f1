"""Draws the table of a schedule's states into docs/theory-of-operation.md.

python docs/figures/transitions.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pearl.decoding.transitions import TRANSITIONS, Sign, State, Step
from pearl.decoding.verdicts import Outcome

PAGE: Final = Path(__file__).resolve().parents[1] / "theory-of-operation.md"
BEGIN, END = "<!-- transitions: drawn -->\n", "<!-- transitions: end -->\n"


def draw() -> str:
    """The states by row, the news by column, and in each place the step; then all words."""
    news = (*Sign, *Outcome)
    rows = [
        [_word(state), *(_word(TRANSITIONS[state].get(each)) for each in news)]
        for state in State
        if TRANSITIONS[state]
    ]
    lines = [
        _row(["waits for", *map(_word, news)]),
        _row(["---"] * (len(news) + 1)),
        *map(_row, rows),
        "",
        *_explained("What is waited for", State),
        *_explained("What comes", news),
        *_explained("What is done", Step),
    ]
    return "\n".join(lines) + "\n"


def write() -> None:
    """Put the drawing between its marks."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}{draw()}{END}{after}", encoding="utf-8")


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _word(member: State | Sign | Outcome | Step | None) -> str:
    return "" if member is None else member.name.lower().replace("_", " ")


def _explained(title: str, members: Iterable[State | Sign | Outcome | Step]) -> list[str]:
    return [f"{title}:", "", *(f"- *{_word(each)}*: {each.value}" for each in members), ""]


if __name__ == "__main__":
    write()
