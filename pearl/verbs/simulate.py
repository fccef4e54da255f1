"""`pearl simulate`: one what-if, answered by the schedules themselves on a virtual clock."""

from __future__ import annotations

import pathlib
import time
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec
from rich.console import Console

from pearl.asking import what_if
from pearl.asking.loads import LOAD
from pearl.asking.options import check_writable, figure_path, takes
from pearl.asking.values import check_seed
from pearl.decoding.stopping import FinishReason
from pearl.harness.systems import name_of, title
from pearl.progress import bar
from pearl.showing.tables import NONE, table
from pearl.showing.terminal import said

if TYPE_CHECKING:
    from rich.table import Table

    from pearl.decoding.estimates import Estimate
    from pearl.simulator.answers import Answer, Waiting
    from pearl.simulator.world import Scenario

WORTH_SPREADING: Final = 100_000  # tokens: about two seconds
FIGURE_TOKENS: Final = 400  # enough for the rounds that a figure shows


@click.command(name="simulate")
@takes(what_if.SCHEDULE, what_if.PAIR, LOAD, what_if.REPLICATIONS)
@click.option("--trace", "trace_file", metavar="FILE",
              help="Write the first replication as a Chrome trace.")  # fmt: skip
@click.option("--figure", "figure_file", metavar="FILE",
              help="Draw its first rounds: .png or .svg.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    trace_file: str | None,
    figure_file: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Simulate draft and target; what is not named is left out (links, control, load)."""
    from pearl.simulator.answers import check_work

    scenario = what_if.scenario(given)
    check_work(scenario, given["replications"])
    check_seed(given["seed"])
    trace_path = None if trace_file is None else check_writable(trace_file)
    figure = None if figure_file is None else figure_path(figure_file)
    answer = _answer(scenario, given)
    with said(answer.as_json() if as_json else None, lambda: _show(answer)):
        if trace_path is not None:
            _write_trace(trace_path, scenario, given["seed"])
        if figure is not None:
            _draw(figure, scenario, given["seed"])


def _answer(scenario: Scenario, given: dict[str, Any]) -> Answer:
    """The answer, with the time it took and a bar while it takes it."""
    from pearl.simulator.answers import runs_of, simulate
    from pearl.simulator.parallel import cores

    began = time.perf_counter()
    replications = given["replications"]
    tokens = scenario.workload.requests * scenario.workload.output.expected * replications
    with bar(runs_of(scenario, replications), "replications") as advance:
        answer = simulate(
            scenario,
            seed=given["seed"],
            replications=replications,
            workers=cores() if tokens > WORTH_SPREADING else 1,  # more to do than to start them
            progress=advance,
        )
    return msgspec.structs.replace(answer, wall_s=time.perf_counter() - began)


def _write_trace(path: pathlib.Path, scenario: Scenario, seed: int) -> None:
    """With all that `simulator.recording` needs to run it again, where it is of one request."""
    from pearl.decoding import trace
    from pearl.simulator.answers import run

    done = run(scenario, seed=seed, trace=True)
    served = sorted(done.served, key=lambda each: each.number)
    length = served[0].metrics.tokens
    about = trace.About(
        settings=msgspec.structs.replace(scenario.settings, max_new_tokens=length),
        eos=(),
        finish_reason=FinishReason.LENGTH,
        prompts=tuple(each.prompt for each in served),
        simulated=True,
    )
    trace.write(path, done.records, **msgspec.to_builtins(about))


def _draw(path: pathlib.Path, scenario: Scenario, seed: int) -> None:
    """The first rounds of the first request, of a run that goes no further."""
    from pearl.analysis import figures
    from pearl.simulator.answers import run
    from pearl.simulator.workload import Fixed

    short = msgspec.structs.replace(scenario.workload, output=Fixed(FIGURE_TOKENS))
    begun = msgspec.structs.replace(scenario, workload=short)
    records = [r for r in run(begun, seed=seed, trace=True).records if r.request == 0]
    title = f"{_title(scenario)}, seed {seed}"
    figures.save(path, lambda axes: figures.timeline(axes, records, title=title))


def _title(scenario: Scenario) -> str:
    ratio, rate = scenario.pair.speed_ratio, scenario.acceptance.mean
    return f"{name_of(scenario.settings)}: speed ratio {ratio:.3g}, alpha {rate:.3g}"


# -- the readable answer -----------------------------------------------------------------------


def _show(answer: Answer) -> None:
    """Two tables: the figures with their intervals, and what each device waited for."""
    console = Console()
    console.print(
        f"{title(answer.schedule, answer.gamma, answer.head_start)}: alpha {answer.alpha:.4g}, "
        f"speed ratio {answer.speed_ratio:.4g}, {answer.replications} replications"
    )
    figures = table("", "mean", "95 % interval")
    for name, estimate in _figures(answer):
        figures.add_row(name, *_cells(estimate))
    console.print(figures)
    console.print(_waiting(answer))


def _figures(answer: Answer) -> list[tuple[str, Estimate]]:
    """The figures that say something of this run."""
    runs, requests = answer.run_length, answer.requests
    rows = [
        ("speed over AR", answer.speedup_over_ar),
        ("tokens per target pass", answer.tokens_per_target_pass),
        ("tokens per second", requests.tokens_per_s),
        ("acceptance rate", answer.acceptance_rate),
        ("draft tokens wasted", answer.wasted),
        ("run length, accepted", runs.accepted),
        ("run length, emitted", runs.emitted),
        ("run length, emitted given pre-verify", runs.emitted_given_preverify),
        ("target passes", answer.target_passes),
        ("draft steps", answer.draft_steps),
        ("seconds", answer.seconds),
    ]
    if requests.served > 1:
        rows += [
            ("seconds of a request", requests.latency_s),
            ("the slowest in twenty", requests.latency_p95_s),
            ("seconds in the queue", requests.queue_s),
            ("seconds to the first token", requests.first_token_s),
        ]
    return rows


def _cells(estimate: Estimate) -> tuple[str, str]:
    if estimate.value is None:
        return NONE, ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.4g}", ""
    return f"{estimate.value:.4g}", f"{estimate.low:.4g} to {estimate.high:.4g}"


def _waiting(answer: Answer) -> Table:
    """Shares of the run, a column a device."""
    shown = table("share of the time", "draft", "target")
    for part in answer.target.__struct_fields__:
        accounts: list[Waiting] = [answer.draft, answer.target]
        shares = [float(getattr(a, part)) / float(answer.seconds) for a in accounts]
        shown.add_row(part.replace("_", " "), *(f"{share:.1%}" for share in shares))
    return shown
