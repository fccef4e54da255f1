"""`pearl optimise`: the best schedule, gamma and head start, and what another choice would cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from pearl.asking import what_if
from pearl.asking.candidates import Candidate, read_candidates
from pearl.asking.options import takes
from pearl.asking.values import check_number, refuse
from pearl.showing.advice import PairAdvice, as_object, show, show_candidates
from pearl.showing.terminal import print_json

if TYPE_CHECKING:
    from pearl.simulator.optimise import Advice, Means

CANDIDATES = [
    click.option("--candidates", "candidates_file", metavar="FILE",
                 help="Several drafts for one target, .csv or .json: name, alpha, and draft_ms or "
                 "speed_ratio; if wanted, draft_devices and draft_price."),
]  # fmt: skip

MEANS = [
    click.option("--devices", type=int, metavar="N", help="How many there are."),
    click.option("--target-devices", type=int, default=1, show_default=True, metavar="N",
                 help="What the target needs; AR and SD run there, the draft beside the target."),
    click.option("--draft-devices", type=int, default=1, show_default=True, metavar="N",
                 help="What the draft needs beside them; for PEARL."),
    click.option("--target-price", type=float, metavar="P",
                 help="Of one of the target's devices, an hour, in any currency."),
    click.option("--draft-price", type=float, metavar="P",
                 help="Of one of the draft's devices. [default: the target's]"),
]  # fmt: skip

NO_CHANCE: Final = {"jitter": 0.0, "link_jitter_ms": 0.0}


@click.command(name="optimise")
@takes(what_if.CERTAIN, CANDIDATES, MEANS)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool, candidates_file: str | None, **given: Any) -> None:
    """Find the best schedule, gamma and head start; with candidates, the best draft.

    All figures are expectations, so there are no intervals. Speed is that of one request.
    """
    means = _means(given)
    if candidates_file is None:
        found = [_of_pair(given, means)]
    else:
        found = _of_candidates(candidates_file, given, means)
    if as_json:
        each = list(map(as_object, found))
        several = candidates_file is not None
        print_json({"winner": found[0].name, "candidates": each} if several else each[0])
    elif candidates_file is None:
        show(found[0], means)
    else:
        show_candidates(found, means)


# -- the question ------------------------------------------------------------------------------


def _means(given: Mapping[str, Any]) -> Means:
    from pearl.simulator.optimise import Means

    means = Means(**{name: given[name] for name in Means.__struct_fields__})
    least = means.target_devices
    allowed = f"at least target-devices, {least}"
    check_number(means.devices, "devices", allowed, lambda n: n >= least)
    if means.draft_price is not None and means.target_price is None:
        raise refuse("draft-price", means.draft_price, "given with target-price")
    return means


def _of_pair(given: Mapping[str, Any], means: Means) -> PairAdvice:
    """One pair, from options or a profile."""
    from pearl.simulator.optimise import advise
    from pearl.simulator.twin import PairTimes

    profile = what_if.read_profile(given["profile_file"])
    every = {**given, **NO_CHANCE}
    context = 1 if profile is None else what_if.halfway(profile)
    times = PairTimes(what_if.pair(every, profile), what_if.network(every, profile), context)
    return _found(None, advise(what_if.acceptance(every, profile), times), means)


def _of_candidates(file: str, given: Mapping[str, Any], means: Means) -> list[PairAdvice]:
    """One pair for each draft, the fastest first."""
    for name in ("alpha", "acceptance", "speed_ratio", "profile_file"):
        if given[name] is not None:
            option = name.removesuffix("_file").replace("_", "-")
            raise refuse(option, given[name], "left out with candidates: the file says it")
    check_number(given["target_ms"], "target-ms", "more than 0", lambda ms: ms > 0)
    target_ms = given["target_ms"] or what_if.TARGET_MS
    found = [_of_candidate(one, given, means) for one in read_candidates(file, target_ms)]
    return sorted(found, key=lambda one: -one.best.choice.tokens_per_s)


def _of_candidate(candidate: Candidate, given: Mapping[str, Any], means: Means) -> PairAdvice:
    from pearl.simulator.acceptance import Independent
    from pearl.simulator.optimise import advise
    from pearl.simulator.twin import PairTimes

    every = {**given, **NO_CHANCE, "speed_ratio": candidate.speed_ratio}
    times = PairTimes(what_if.pair(every, None), what_if.network(every, None))
    own = {"draft_devices": candidate.draft_devices, "draft_price": candidate.draft_price}
    means = msgspec.structs.replace(means, **{k: v for k, v in own.items() if v is not None})
    return _found(candidate.name, advise(Independent(candidate.alpha), times), means)


def _found(name: str | None, advice: Advice, means: Means) -> PairAdvice:
    from pearl.simulator.optimise import foremost, placed

    placements = tuple(placed(choice, means) for choice in advice.choices)
    return PairAdvice(name=name, best=foremost(placements), placements=placements, advice=advice)
