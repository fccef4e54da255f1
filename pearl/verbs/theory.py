"""`pearl theory`: what the closed forms say of a pair, at once and without a simulation."""

from __future__ import annotations

from typing import Any, Final

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from decoding.settings import WIDEST_GAMMA, parse_gamma
from pearl.asking import what_if
from pearl.asking.options import options
from pearl.asking.values import check_number
from pearl.showing.terminal import print_json

QUESTION = [
    click.option("--alpha", type=float, metavar="A", default=what_if.ALPHA, show_default=True,
                 help="Acceptance rate, independent from token to token."),
    click.option("--speed-ratio", type=float, metavar="C", default=what_if.SPEED_RATIO,
                 show_default=True, help="A target pass over a draft step."),
    click.option("--gamma", metavar="N|auto", default="auto", show_default=True,
                 help="Tokens in a window of PEARL; auto takes the best. Speculative decoding has "
                 "its own best."),
    click.option("--head-start", type=int, metavar="K", default=0, show_default=True,
                 help="PEARL: tokens the draft writes before the first pass after a rejection."),
    click.option("--overhead", type=float, metavar="L", default=0.0, show_default=True,
                 help="Control and communication of each round, in target passes."),
    click.option("--growth", type=float, metavar="G", default=0.0, show_default=True,
                 help="Every further token of a pass takes this share of a pass more."),
    click.option("--link", type=float, metavar="L", default=0.0, show_default=True,
                 help="What each window of the draft waits for its messages, in target passes."),
]  # fmt: skip

COLUMNS: Final = ("tokens per pass", "speed over AR", "over SD", "draft idle", "target idle",
                  "wasted")  # fmt: skip


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Of a run, in three conventions; null in JSON where a run has no end (alpha 1)."""

    accepted: float
    emitted: float
    emitted_given_preverify: float


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One schedule, and what theory says of it; idle and wasted are shares."""

    name: str
    gamma: int
    head_start: int
    tokens_per_target_pass: float
    speedup_over_ar: float
    draft_idle: float
    target_idle: float
    wasted: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What theory says of PEARL on this pair.

    Args:
        speedup_over_sd: over speculative decoding at its own best gamma.
        best_gamma: of PEARL, with this head start and overhead.
        best_head_start: with this gamma and overhead.
        break_even_overhead: at which PEARL is as fast as AR; negative where it never is.
        draft_idle, target_idle: shares of the time.
        wasted: share of the draft's tokens.
    """

    alpha: float
    speed_ratio: float
    gamma: int
    head_start: int
    overhead: float
    growth: float
    link: float
    tokens_per_target_pass: float
    speedup_over_ar: float
    speedup_over_sd: float
    best_gamma: int
    best_head_start: int
    break_even_overhead: float
    draft_idle: float
    target_idle: float
    wasted: float
    run_length: Lengths


_LENGTHS: Final = Lengths.__struct_fields__


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A draft and a target, and what a round costs beside them."""

    alpha: float
    speed_ratio: float
    overhead: float
    growth: float
    link: float

    @property
    def further(self) -> dict[str, Any]:
        """What closed forms take by name."""
        return {"growth": self.growth, "link": self.link}


@click.command(name="theory")
@options(QUESTION)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, about PEARL.")
def command(*, as_json: bool, **given: Any) -> None:
    """Say what the closed forms say of a pair, beside AR and speculative decoding.

    Acceptance is independent, rounds have a barrier, and texts are without end; `pearl simulate`
    needs none of that.
    """
    gamma, head_start = _numbers(given)
    pair = Pair(**{name: given[name] for name in Pair.__struct_fields__})
    best_gamma = _best_gamma(pair, head_start)
    chosen = best_gamma if gamma is None else gamma
    sd, plain = _speculative(pair), _pearl(pair, chosen, head_start)
    found = _answer(pair, plain, sd, best_gamma)
    if as_json:
        print_json(found)
    else:
        ahead = _pearl(pair, chosen, found.best_head_start)
        _show(found, [_alone(), sd, plain, *([ahead] if ahead != plain else [])])


def _numbers(given: dict[str, Any]) -> tuple[int | None, int]:
    """Gamma (None for auto) and head start, after everything was looked at.

    Raises:
        SettingError: an option is outside its range.
    """
    check = check_number
    check(given["alpha"], "alpha", "from 0 to 1", lambda a: 0 <= a <= 1)
    check(given["speed_ratio"], "speed-ratio", "more than 0", lambda c: c > 0)
    gamma = parse_gamma(given["gamma"])
    number = gamma if isinstance(gamma, int) else None
    allowed = f"a whole number from 1 to {WIDEST_GAMMA}, or auto"
    check(number, "gamma", allowed, lambda g: 1 <= g <= WIDEST_GAMMA)
    head_start: int = given["head_start"]
    allowed = f"a whole number from 0 to {WIDEST_GAMMA}"
    check(head_start, "head-start", allowed, lambda k: 0 <= k <= WIDEST_GAMMA)
    for name in ("overhead", "growth", "link"):
        check(given[name], name, "0 or more", lambda share: share >= 0)
    return number, head_start


# -- the schedules -----------------------------------------------------------------------------


def _best_gamma(pair: Pair, head_start: int) -> int:
    from analysis import theory

    a, c, overhead = pair.alpha, pair.speed_ratio, pair.overhead
    return int(theory.best_pearl_gamma(a, c, head_start, overhead, **pair.further))


def _alone() -> Line:
    """The target without a draft: the measure of speed, which pays no overhead."""
    return Line(
        name="AR",
        gamma=0,
        head_start=0,
        tokens_per_target_pass=1.0,
        speedup_over_ar=1.0,
        draft_idle=1.0,
        target_idle=0.0,
        wasted=0.0,
    )


def _speculative(pair: Pair) -> Line:
    """At its best gamma."""
    from analysis import theory

    a, c, overhead = pair.alpha, pair.speed_ratio, pair.overhead
    g = int(theory.best_speculative_gamma(a, c, overhead, **pair.further))
    idle = theory.speculative_idle(g, c, overhead, **pair.further)
    return Line(
        name="SD",
        gamma=g,
        head_start=0,
        tokens_per_target_pass=float(theory.speculative_tokens_per_pass(a, g)),
        speedup_over_ar=float(theory.speculative_speedup(a, g, c, overhead, **pair.further)),
        draft_idle=float(idle.draft),
        target_idle=float(idle.target),
        wasted=float(theory.speculative_wasted(a, g)),
    )


def _pearl(pair: Pair, g: int, k: int) -> Line:
    from analysis import theory

    a, c, overhead = pair.alpha, pair.speed_ratio, pair.overhead
    idle = theory.pearl_idle(a, g, c, k, overhead, **pair.further)
    return Line(
        name="PEARL",
        gamma=g,
        head_start=k,
        tokens_per_target_pass=float(theory.pearl_tokens_per_pass(a, g, k)),
        speedup_over_ar=float(theory.pearl_speedup(a, g, c, k, overhead, **pair.further)),
        draft_idle=float(idle.draft),
        target_idle=float(idle.target),
        wasted=float(theory.pearl_wasted(a, g, k)),
    )


def _answer(pair: Pair, pearl: Line, sd: Line, best_gamma: int) -> Answer:
    from analysis import theory

    a, c, g, k = pair.alpha, pair.speed_ratio, pearl.gamma, pearl.head_start
    length = theory.pearl_run_length(a, g, k)
    return Answer(
        alpha=a,
        speed_ratio=c,
        gamma=g,
        head_start=k,
        overhead=pair.overhead,
        **pair.further,
        tokens_per_target_pass=pearl.tokens_per_target_pass,
        speedup_over_ar=pearl.speedup_over_ar,
        speedup_over_sd=pearl.speedup_over_ar / sd.speedup_over_ar,
        best_gamma=best_gamma,
        best_head_start=int(theory.best_head_start(a, g, c, pair.overhead, **pair.further)),
        break_even_overhead=float(theory.break_even_overhead(a, g, c, k, **pair.further)),
        draft_idle=pearl.draft_idle,
        target_idle=pearl.target_idle,
        wasted=pearl.wasted,
        run_length=Lengths(**{name: float(getattr(length, name)) for name in _LENGTHS}),
    )


# -- the readable answer -----------------------------------------------------------------------


def _show(found: Answer, lines: list[Line]) -> None:
    """The schedules, then what holds for PEARL alone."""
    console, sd = Console(highlight=False), lines[1]
    costs = {name: getattr(found, name) for name in ("overhead", "growth", "link")}
    also = "".join(f", {name} {cost:.4g}" for name, cost in costs.items() if cost)
    console.print(f"alpha {found.alpha:.4g}, speed ratio {found.speed_ratio:.4g}{also}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for head in COLUMNS:
        table.add_column(head, justify="right", min_width=6)
    for line in lines:
        table.add_row(_name(line), *_cells(line, sd))
    console.print(table)
    length = found.run_length
    console.print(
        f"A run of PEARL, from one rejection to the next: {length.accepted:.4g} tokens accepted, "
        f"{length.emitted:.4g} emitted, {length.emitted_given_preverify:.4g} emitted where the "
        "first was accepted.",
        soft_wrap=True,
    )
    console.print(
        f"PEARL is at its best with gamma {found.best_gamma}, and with gamma {found.gamma} at head "
        f"start {found.best_head_start}. {_break_even(found.break_even_overhead)}",
        soft_wrap=True,
    )


def _cells(line: Line, sd: Line) -> tuple[str, ...]:
    """Under `COLUMNS`."""
    return (
        f"{line.tokens_per_target_pass:.3f}",
        f"{line.speedup_over_ar:.3f}",
        f"{line.speedup_over_ar / sd.speedup_over_ar:.3f}",
        f"{line.draft_idle:.1%}",
        f"{line.target_idle:.1%}",
        f"{line.wasted:.1%}" if line.gamma else "",
    )


def _name(line: Line) -> str:
    gamma = f", gamma {line.gamma}" if line.gamma else ""
    ahead = f", head start {line.head_start}" if line.head_start else ""
    return f"{line.name}{gamma}{ahead}"


def _break_even(overhead: float) -> str:
    if overhead < 0:
        return "It is slower than AR whatever the overhead."
    return f"It is as fast as AR at an overhead of {overhead:.4g}."
