"""`pearl theory`: what the closed forms say of a pair, at once and without a simulation."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import click
from rich import box
from rich.console import Console
from rich.table import Table

from pearl.asking import what_if
from pearl.asking.options import takes
from pearl.asking.values import check_number
from pearl.decoding.settings import WIDEST_GAMMA, parse_gamma
from pearl.showing.terminal import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pearl.analysis.theory import Assumptions, Expected

QUESTION = [
    click.option("--alpha", type=float, metavar="A", default=what_if.ALPHA, show_default=True,
                 help="Acceptance rate, independent from token to token."),
    click.option("--speed-ratio", type=float, metavar="C", default=what_if.SPEED_RATIO,
                 show_default=True, help="A target pass over a draft step."),
    click.option("--gamma", metavar="N|auto", default="auto", show_default=True,
                 help="Tokens in a window of PEARL; auto takes the best, and none where no "
                 "window beats AR. Speculative decoding has its own best."),
    click.option("--head-start", type=int, metavar="K", default=0, show_default=True,
                 help="PEARL: tokens the draft writes before the first pass after a rejection."),
    click.option("--overhead", type=float, metavar="L", default=0.0, show_default=True,
                 help="Control and communication of each round, in target passes."),
    click.option("--growth", type=float, metavar="G", default=0.0, show_default=True,
                 help="Every further token of a pass takes this share of a pass more."),
    click.option("--link", type=float, metavar="L", default=0.0, show_default=True,
                 help="What each window of the draft waits for its messages, in target passes."),
]  # fmt: skip

COSTS: Final = ("overhead", "growth", "link")
COLUMNS: Final = ("tokens per pass", "speed over AR", "over SD", "draft idle", "target idle",
                  "wasted")  # fmt: skip


@click.command(name="theory")
@takes(QUESTION)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, about PEARL.")
def command(*, as_json: bool, **given: Any) -> None:
    """Say what the closed forms say of a pair, beside AR and speculative decoding.

    Acceptance is independent, rounds have a barrier, and texts are without end; `pearl simulate`
    needs none of that.
    """
    from pearl.analysis.theory import Assumptions, best_gamma, expected

    gamma, head_start = _numbers(given)
    pair = {name: given[name] for name in ("speed_ratio", *COSTS)} | {"acceptance": given["alpha"]}
    plain = Assumptions("pearl", head_start=head_start, **pair)
    best = int(best_gamma(plain))
    plain = replace(plain, gamma=best if gamma is None else gamma)
    in_turns = Assumptions("sd", **pair)
    sd = expected(replace(in_turns, gamma=best_gamma(in_turns)))
    found = _answer(expected(plain), sd, best)
    if as_json:
        print_json(found)
        return
    ahead = found["best_head_start"]
    lines = [expected(Assumptions("ar", **pair)), sd, expected(plain)]
    if found["gamma"] and ahead != head_start:
        lines.append(expected(replace(plain, head_start=ahead)))
    _show(found, lines, float(sd.speedup))


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
    for name in COSTS:
        check(given[name], name, "0 or more", lambda share: share >= 0)
    return number, head_start


def _answer(pearl: Expected, sd: Expected, best: int) -> dict[str, Any]:
    """What theory says of PEARL on this pair; null in JSON where a run has no end (alpha 1).

    Args:
        pearl: as asked.
        sd: speculative decoding at its own best gamma.
        best: gamma of PEARL, with this head start and these costs; 0 is no draft.
    """
    from pearl.analysis.theory import best_head_start

    assumed = pearl.assumed
    costs = {name: float(getattr(assumed, name)) for name in COSTS}
    return {
        "alpha": float(assumed.acceptance),
        "speed_ratio": float(assumed.speed_ratio),
        "gamma": int(assumed.gamma),
        "head_start": int(assumed.head_start),
        **costs,
        "tokens_per_target_pass": float(pearl.tokens_per_pass),
        "speedup_over_ar": float(pearl.speedup),
        "speedup_over_sd": float(pearl.speedup / sd.speedup),
        "best_gamma": best,
        "best_head_start": int(best_head_start(assumed)),
        "break_even_overhead": float(pearl.break_even_overhead),
        "draft_idle": float(pearl.draft_idle),
        "target_idle": float(pearl.target_idle),
        "wasted": float(pearl.wasted),
        "run_length": {
            "accepted": float(pearl.accepted_per_run),
            "emitted": float(pearl.emitted_per_run),
            "emitted_given_preverify": float(pearl.emitted_given_preverify),
        },
    }


def _show(found: dict[str, Any], lines: Sequence[Expected], sd: float) -> None:
    """The schedules, then what holds for PEARL alone.

    Args:
        found: of PEARL.
        lines: of the table.
        sd: speed of speculative decoding.
    """
    console = Console(highlight=False)
    also = "".join(f", {name} {found[name]:.4g}" for name in COSTS if found[name])
    console.print(f"alpha {found['alpha']:.4g}, speed ratio {found['speed_ratio']:.4g}{also}")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    for head in COLUMNS:
        table.add_column(head, justify="right", min_width=6)
    for line in lines:
        table.add_row(_name(line.assumed), *_cells(line, sd))
    console.print(table)
    accepted, emitted, given = found["run_length"].values()
    if found["gamma"]:
        console.print(
            f"A run of PEARL, from one rejection to the next: {accepted:.4g} tokens "
            f"accepted, {emitted:.4g} emitted, {given:.4g} emitted where the first was accepted.",
            soft_wrap=True,
        )
    console.print(_advice(found), soft_wrap=True)


def _cells(line: Expected, sd: float) -> tuple[str, ...]:
    """Under `COLUMNS`."""
    return (
        f"{line.tokens_per_pass:.3f}",
        f"{line.speedup:.3f}",
        f"{line.speedup / sd:.3f}",
        f"{line.draft_idle:.1%}",
        f"{line.target_idle:.1%}",
        f"{line.wasted:.1%}" if line.assumed.drafts else "",
    )


def _name(assumed: Assumptions) -> str:
    if not assumed.kind.drafts:
        return assumed.kind.title
    if not assumed.gamma:
        return f"{assumed.kind.title}, no draft"
    ahead = f", head start {int(assumed.head_start)}" if assumed.head_start else ""
    return f"{assumed.kind.title}, gamma {int(assumed.gamma)}{ahead}"


def _advice(found: dict[str, Any]) -> str:
    """What suits PEARL, and when AR is as fast."""
    gamma, best, overhead = found["gamma"], found["best_gamma"], found["break_even_overhead"]
    if best:
        advice = f"PEARL is at its best with gamma {best}."
    else:
        advice = "PEARL is at its best without a draft: with no window it is faster than AR."
    if not gamma:
        return advice
    even = "slower than AR whatever the overhead"
    if overhead >= 0:
        even = f"as fast as AR at an overhead of {overhead:.4g}"
    return (
        f"{advice} With gamma {gamma} and head start {found['head_start']} it is {even}; the best "
        f"head start there is {found['best_head_start']}."
    )
