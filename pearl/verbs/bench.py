"""`pearl bench`: AR, SD, PEARL and Hugging Face side by side, interleaved in one run."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from pearl import signals
from pearl.actors.stand_ins import STAND_INS, parse_stand_ins
from pearl.asking import options
from pearl.asking.values import whole_numbers
from pearl.decoding import files
from pearl.decoding.errors import SettingError
from pearl.harness.competitors import Contest, StandIns
from pearl.harness.contest import compete
from pearl.harness.crowd import gather
from pearl.harness.prompts import read_prompts
from pearl.showing import benchmark as showing
from pearl.showing.terminal import said

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pearl.actors.engine_settings import EngineSettings
    from pearl.analysis.benchmark import Difference

MOST: Final = 4096  # requests at once
MOST_TIMED_TOKENS: Final = 100_000

CANDIDATES = [
    click.option("--gammas", default="2,3,4,5,6,8,10", show_default=True, metavar="N,…",
                 help="Windows that SD and PEARL are tuned over."),
    click.option("--head-starts", default="0,1,2,3", show_default=True, metavar="K,…",
                 help="Head starts that PEARL is tuned over."),
    click.option("--assistant-tokens", default="2,3,4,5,6,8,10", show_default=True, metavar="N,…",
                 help="Windows that assisted generation is tuned over, each with a confidence "
                 "threshold of 0 and of 0.4, beside its own defaults."),
    click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True,
                 help="How often every prompt is decoded by every system that is measured."),
    click.option("--tuning-prompts", type=click.IntRange(min=1), default=4, show_default=True,
                 help="On how many of the prompts all candidates are tried; then the best three "
                 "of each family on the others."),
    click.option("--no-reference", is_flag=True, help="Leave Hugging Face out."),
    click.option("--stand-in", metavar="KIND:DRAFT,TARGET",
                 help="No models, and without Hugging Face: devices that do some work and say a "
                 "text that is known; shows what the machinery costs. One of "
                 + ", ".join(f"{k}:DRAFT,TARGET ({it.takes})" for k, it in STAND_INS.items())),
    click.option("--timed", metavar="DRAFT,TARGET",
                 help="The same as --stand-in timed:DRAFT,TARGET: ms of a pass."),
    click.option("--acceptance", type=float, metavar="A",
                 help="Of stand-ins: how often the draft guesses a token; default: 0.8."),
]  # fmt: skip


@click.command(name="bench")
@options.takes(CANDIDATES, options.SAMPLING, options.PROMPTS, options.ENGINE)
@click.option("--in-flight", metavar="N,…",
              help="Compare so many requests at once instead: AR, SD and PEARL at their best, and "
              "with automatic windows.")  # fmt: skip
@click.option("--figure", "figure_file", metavar="FILE", help="Draw the speeds, .png or .svg.")
@click.option("--output", metavar="FILE.json", help="Write the object, with every single run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    in_flight: str | None,
    figure_file: str | None,
    output: str | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Compare AR, SD, PEARL and Hugging Face on one pair, tuned alike, in one run.

    Speeds are of whole requests, the wait for the first token included: medians over prompts of
    ratios to AR on the same prompt. Beside each stands what theory says of the same requests, and
    what share of that was achieved. Exit code 1 where a text that must be AR's is not.
    """
    contest = _contest(given)
    sizes = None if in_flight is None else whole_numbers("in-flight", in_flight, 1, MOST)
    if figure_file is not None and sizes is not None:
        raise SettingError("figure and in-flight are both given; the figure is of single requests")
    figure = None if figure_file is None else options.figure_path(figure_file)
    file = None if output is None else options.check_writable(output)
    prompts, engine = read_prompts(given), options.engine_settings(given)
    if sizes is not None:
        return _together(contest, engine, prompts, sorted(sizes), file, as_json=as_json)
    outcome = signals.run(compete(contest, engine, prompts))
    from pearl.analysis import benchmark

    found = benchmark.report(outcome.systems, outcome.runs, outcome.traced)
    answer = showing.about(contest, prompts, engine, outcome, found.differences)
    answer |= showing.as_builtins(found, outcome)
    with said(answer if as_json else None, lambda: showing.show(found, outcome, answer)):
        _write(file, answer | {"runs": [showing.run_as_builtins(run) for run in outcome.runs]})
        if figure is not None:
            showing.draw(figure, found)
    return _complain(found.differences, "round")


def _together(
    contest: Contest,
    engine: EngineSettings,
    prompts: Sequence[str],
    sizes: Sequence[int],
    file: pathlib.Path | None,
    *,
    as_json: bool,
) -> int:
    """Several requests at once."""
    found = signals.run(gather(contest, engine, prompts, sizes))
    answer = showing.about(contest, prompts, engine, found, found.differences)
    answer["in_flight"] = [showing.level_as_builtins(level) for level in found.levels]
    with said(answer if as_json else None, lambda: showing.show_crowds(found, answer)):
        _write(file, answer)
    return _complain(found.differences, "requests at once:")


def _contest(given: dict[str, Any]) -> Contest:
    """What the options describe.

    Raises:
        SettingError: one of them is outside its range.
    """
    rest = {"schedule": "ar", "gamma": "auto", "head_start": 0, "strict": False, "stop": ()}
    stand_ins = _stand_ins(given["stand_in"], given["timed"], given["acceptance"])
    contest = Contest(
        reference=stand_ins is None and not given["no_reference"],
        settings=options.decoding_settings(given | rest),
        gammas=whole_numbers("gammas", given["gammas"], 1),
        head_starts=whole_numbers("head-starts", given["head_starts"], 0),
        assistant_tokens=whole_numbers("assistant-tokens", given["assistant_tokens"], 1),
        rounds=given["rounds"],
        tuning_prompts=given["tuning_prompts"],
        stand_ins=stand_ins,
    )
    if stand_ins is not None and contest.settings.max_new_tokens > MOST_TIMED_TOKENS:
        allowed = f"at most {MOST_TIMED_TOKENS} with stand-ins, which have no models to end it"
        message = f"max-new-tokens is {contest.settings.max_new_tokens}; it must be {allowed}"
        raise SettingError(message)
    return contest


def _stand_ins(text: str | None, timed: str | None, acceptance: float | None) -> StandIns | None:
    """Devices without models, as the three options describe them."""
    if text is not None and timed is not None:
        raise SettingError(f"stand-in {text!r} and timed {timed!r} are both given; give one")
    if text is None and timed is None:
        if acceptance is not None:
            message = f"acceptance is {acceptance:g}; it is for stand-ins, models have their own"
            raise SettingError(message)
        return None
    kind, _, rest = text.partition(":") if text is not None else ("timed", ":", timed or "")
    return StandIns(
        kind=kind,
        devices=parse_stand_ins(kind, rest),
        acceptance=0.8 if acceptance is None else acceptance,
    )


def _write(file: pathlib.Path | None, answer: dict[str, Any]) -> None:
    if file is not None:
        files.write(file, msgspec.json.format(msgspec.json.encode(answer), indent=1))


def _complain(differences: Sequence[Difference], turn: str) -> int:
    """One line if a text is not what it must be, and the exit code."""
    if not differences:
        return 0
    first, *more = differences
    click.echo(
        f"pearl: {first.system} differs from AR on prompt {first.prompt + 1}, {turn} "
        f"{first.round}, at token {first.token + 1}"
        + (f", and {len(more)} more texts differ" if more else "")
        + "; in lower precision than float32 rounding can do that",
        err=True,
    )
    return 1
