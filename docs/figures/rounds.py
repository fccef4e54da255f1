"""Draw rounds.svg: the same text written three ways, on one time axis.

A target pass lasts as long as four draft steps, a window is four tokens, and the draft errs once,
at the twelfth token. Everything else in the picture follows from the three rules below.

    python docs/figures/rounds.py        writes rounds.svg beside this file
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

GAMMA = 4  # draft steps in a window, and in the time of one target pass
WRONG = 12  # the token at which the draft errs
END = 24  # draft steps on the time axis

STEP, LANE, GAP = 25, 20, 4  # pixels: a draft step's width, a bar's height, what lies between
LEFT, TOP, ROW = 122, 16, 89
WIDTH, HEIGHT = 800, 316

STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif }
  .name { font-weight: 600; font-size: 15px } .small { font-size: 11px } .end { text-anchor: end }
  .total { font-weight: 600; font-size: 20px }
  .mid { text-anchor: middle } .count { font-weight: 600 }
  text { fill: #1f2328 } .soft { fill: #656d76 } .axis { stroke: #8c959f; fill: none }
  .draft { fill: #2a9d8f } .target { fill: #4a5bc4 }
  .waste { fill: none; stroke: #2a9d8f; stroke-width: 1.2; stroke-dasharray: 2.5 2 }
  .waiting { fill: url(#stripes) }
  .stripe { stroke: #8c959f; stroke-opacity: .45 } .grid { stroke: #8c959f; stroke-opacity: .28 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .soft { fill: #9198a1 }
    .draft { fill: #3fb8a8 } .target { fill: #7c8cf0 } .waste { stroke: #3fb8a8 }
  }
"""

HEAD = f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>Tokens written in the same time by autoregressive decoding (AR), speculative decoding (SD)
and parallel speculative decoding (PEARL)</title>
<style>{STYLE}</style>
<defs><pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse"
patternTransform="rotate(45)"><path class="stripe" d="M0 0V6"/></pattern></defs>"""


@dataclass
class Round:
    """One target pass: when it starts, what it commits, and the window written for or beside it."""

    start: int
    committed: int
    note: str
    window_start: int = 0
    window: list[int] = field(default_factory=list)  # the positions its tokens stand at
    useful: int = 0  # how many of them are committed in the end


def autoregressive() -> Iterator[Round]:
    for start in range(0, END, GAMMA):
        yield Round(start, 1, "")


def speculative() -> Iterator[Round]:
    """The draft writes a window, then the target judges it and adds a token of its own."""
    done = 0
    for start in range(0, END, 2 * GAMMA):
        window = list(range(done + 1, done + 1 + GAMMA))
        kept = window.index(WRONG) if WRONG in window else GAMMA
        note = "all kept" if kept == GAMMA else "one rejected"
        yield Round(start + GAMMA, kept + 1, note, start, window, kept)
        done += kept + 1


def parallel() -> Iterator[Round]:
    """The target judges what is pending while the draft writes the window after it."""
    done, pending = 0, list[int]()
    for start in range(0, END, GAMMA):
        first = done + len(pending) + 1
        window = list(range(first, first + GAMMA))
        note = "post-verify" if pending else "pre-verify"
        if WRONG in pending:
            kept = pending.index(WRONG)
            yield Round(start, kept + 1, "one rejected", start, window, useful=0)
            done, pending = done + kept + 1, []
        else:
            useful = window.index(WRONG) if WRONG in window else GAMMA
            yield Round(start, len(pending) + 1, note, start, window, useful)
            done, pending = first, window[1:]


def bar(kind: str, start: float, steps: float, y: float) -> str:
    x, width = LEFT + start * STEP + 1, steps * STEP - 2
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{LANE}" rx="3"/>'


def text(kind: str, x: float, y: float, words: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{words}</text>'


def draw_row(index: int, name: str, rounds: list[Round]) -> Iterator[str]:
    top = TOP + index * ROW
    below = top + LANE + GAP
    yield text("name", 8, below + 3, name)
    yield text("small soft end", LEFT - 10, top + 14, "draft")
    yield text("small soft end", LEFT - 10, below + 14, "target")
    for this in rounds:
        yield bar("target", this.start, GAMMA, below)
        middle = LEFT + (this.start + GAMMA / 2) * STEP
        yield text("count mid", middle, below + LANE + 15, f"+{this.committed}")
        yield text("small soft mid", middle, below + LANE + 29, this.note)
        for step in range(len(this.window)):
            kind = "draft" if step < this.useful else "waste"
            yield bar(kind, this.window_start + step, 1, top)
        if this.window and this.window_start < this.start:
            yield bar("waiting", this.window_start, GAMMA, below)
            yield bar("waiting", this.start, GAMMA, top)
    right = LEFT + END * STEP + 38
    yield text("total mid", right, below + 1, str(sum(this.committed for this in rounds)))
    yield text("small soft mid", right, below + 16, "tokens")


def draw_legend(y: float) -> Iterator[str]:
    """Samples of the four kinds of bar, and the axis they share."""
    x = float(LEFT)
    for kind, words in [
        ("draft", "draft step"),
        ("target", "target pass"),
        ("waste", "written in vain"),
        ("waiting", "waiting"),
    ]:
        yield bar(kind, (x - LEFT) / STEP, 1, y - 14)
        yield text("small soft", x + STEP + 6, y, words)
        x += STEP + 28 + 6 * len(words)
    end = LEFT + END * STEP
    yield text("small soft end", end - 48, y, "time")
    yield f'<path class="axis" d="M{end - 42} {y - 4}H{end}m-5 -4l5 4l-5 4"/>'


def draw() -> str:
    rows = [("AR", autoregressive()), ("SD", speculative()), ("PEARL", parallel())]
    parts = [HEAD]
    for tick in range(0, END + 1, GAMMA):
        x = LEFT + tick * STEP
        parts.append(f'<path class="grid" d="M{x} {TOP - 8}V{TOP + 3 * ROW - 14}"/>')
    for index, (name, rounds) in enumerate(rows):
        parts.extend(draw_row(index, name, list(rounds)))
    parts.extend(draw_legend(HEIGHT - 14))
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
