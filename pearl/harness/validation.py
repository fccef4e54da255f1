"""Theory, simulation and real runs of the same requests, held side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from pearl.decoding.errors import MalformedTraceError, SettingError
from pearl.harness.records import recording
from pearl.progress import bar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pearl.analysis.comparison import Group
    from pearl.analysis.parameters import Constants
    from pearl.analysis.traces import Request
    from pearl.analysis.validation import BestWindow, Validation
    from pearl.simulator.profiling import Recording
    from pearl.simulator.world import Pair

WIDEST_TRIED: Final = 32  # windows that theorem 1 is held against


def validate(requests: dict[str, list[Request]], others: float | None = None) -> Validation:
    """Simulate what was measured, and hold everything side by side.

    Args:
        requests: by system.
        others: the share of the cores that other processes took meanwhile; None if not known.

    Raises:
        MalformedTraceError: no target pass, or no draft step, was timed in any of them.
    """
    from pearl.analysis import validation
    from pearl.analysis.comparison import Group
    from pearl.analysis.parameters import Constants
    from pearl.simulator import attribution

    recorded = {name: [recording(r) for r in found] for name, found in requests.items()}
    pair = _pair(requests, recorded)
    groups = []
    with bar(len(recorded) + 1, "simulations") as advance:
        for name, found in requests.items():
            steps = attribution.steps(recorded[name], found[0].settings, pair)
            seconds = msgspec.structs.asdict(steps)
            figures = seconds.pop("figures")
            groups.append(
                Group(name=name, requests=tuple(found), seconds=seconds, simulated=figures)
            )
            advance()
        constants = Constants(step_s=pair.draft.seconds(1), pass_s=pair.target.seconds(1))
        best = _best_window(groups, recorded, constants)
        advance()
    notes = list(_notes(groups))
    return validation.validate(groups, constants, best_window=best, notes=notes, others=others)


def _pair(requests: dict[str, list[Request]], recorded: dict[str, list[Recording]]) -> Pair:
    """The two times: of all windows, and of AR's passes where AR was run."""
    from pearl.simulator import attribution

    every = [recording for found in recorded.values() for recording in found]
    alone = [
        recording
        for name, found in requests.items()
        if not found[0].settings.kind.drafts
        for recording in recorded[name]
    ]
    try:
        return attribution.constants(drafted=every, judged=alone or every)
    except SettingError as error:
        raise MalformedTraceError(f"the traces have no times: {error}") from None


def _best_window(
    groups: Sequence[Group], recorded: dict[str, list[Recording]], constants: Constants
) -> BestWindow | None:
    """What every window would give, with the agreement and times of the first run of PEARL.

    None where there is no such run, or one in which nothing was drafted.
    """
    from pearl.analysis import theory, traces, validation
    from pearl.analysis.parameters import assumptions, rate_of, window
    from pearl.simulator import attribution

    group = next((g for g in groups if g.settings.kind.parallel), None)
    if group is None or traces.overlap(group.requests):
        return None
    gamma, rate, c = window(group.requests), rate_of(group.requests), constants.speed_ratio
    tried = range(1, min(WIDEST_TRIED, max(round(2 * c), gamma) + 2) + 1)
    speeds = attribution.speeds(recorded[group.name], group.settings, tried)
    if not speeds or rate is None or not gamma:
        return None
    alone = next((g for g in groups if not g.settings.kind.drafts), None)
    passes = constants.pass_s if alone is None else _seconds_per_token(alone)
    return validation.BestWindow(
        speed_ratio=c,
        theory=int(theory.best_gamma(assumptions(group.settings, gamma, rate, constants))),
        simulated={gamma: speed * passes for gamma, speed in speeds.items()},
    )


def _seconds_per_token(alone: Group) -> float:
    """Of AR as it was simulated, like what it is compared with."""
    seconds = alone.seconds["messages"] or alone.seconds["measured"]
    assert seconds is not None
    return seconds / sum(len(request.tokens) for request in alone.requests)


def _notes(groups: Sequence[Group]) -> Iterator[str]:
    """What a reader must know of these runs."""
    from pearl.analysis import traces

    for group in groups:
        if all(request.simulated for request in group.requests):
            yield f"{group.name}: no real run, it was recorded in a simulation."
        if traces.overlap(group.requests):
            yield (
                f"{group.name}: requests ran at the same time, so their times are not compared "
                "with theory, which knows one request."
            )
        elif group.simulated is None:
            yield f"{group.name}: not simulated; " + (
                "automatic windows follow the times, so the parts of times stand together."
                if group.settings.adapts
                else "too little was recorded, or a device was lost meanwhile."
            )
        if any(request.prompt is None for request in group.requests):
            yield f"{group.name}: the trace does not say how long the prompt was."
