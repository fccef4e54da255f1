"""The load of a what-if: which requests come, when, how long they are, and what fails."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from pearl.asking.values import Kinds, check_number, of_kind, or_refuse, refuse, whole
from pearl.decoding import files
from pearl.decoding.errors import SettingError
from pearl.decoding.messages import Device, Role
from pearl.decoding.settings import Settings

if TYPE_CHECKING:
    from pearl.simulator.faults import Fault
    from pearl.simulator.profiles import Profile
    from pearl.simulator.workload import Arrivals, Lengths, Workload

TOKENS: Final = 20_000

LOAD = [
    click.option("--tokens", metavar="N|KIND",
                 help="Tokens of an answer: N · uniform:LOW,HIGH · geometric:MEAN · "
                 f"lognormal:MEAN,VARIATION [default: {TOKENS}, or the profile's]"),
    click.option("--prompt-tokens", metavar="N|KIND",
                 help="Tokens of a prompt, in the same way. [default: 1, or the profile's]"),
    click.option("--requests", type=int, metavar="N",
                 help="Requests in a replication. [default: 1, or the profile's]"),
    click.option("--arrivals", metavar="KIND", default="closed:1", show_default=True,
                 help="closed:USERS · poisson:PER_SECOND · file:SECONDS.txt"),
    click.option("--slots", type=int, metavar="N",
                 help="Requests that run at once; others queue. Default: all."),
    click.option("--fault", "faults", multiple=True, metavar="DEVICE:KIND:AT:SECONDS[:FACTOR]",
                 help="draft or target; stall, crash, or slow with a factor. More than once."),
]  # fmt: skip


def workload(given: Mapping[str, Any], profile: Profile | None) -> Workload:
    """Which requests come, when, and how long they are."""
    from pearl.simulator.workload import Fixed, Workload

    measured = None if profile is None else profile.scenario(Settings()).workload
    asked = given["requests"]
    requests = asked if asked is not None else measured.requests if measured else 1
    prompt, output = given["prompt_tokens"], given["tokens"]
    return Workload(
        requests=requests,
        arrivals=_arrivals(given["arrivals"]),
        prompt=lengths("prompt-tokens", prompt, measured.prompt if measured else Fixed(1)),
        output=lengths("tokens", output, measured.output if measured else Fixed(TOKENS)),
        slots=given["slots"],
    )


def lengths(option: str, text: str | None, default: Lengths) -> Lengths:
    """A number, or a distribution of them."""
    from pearl.simulator.workload import Fixed, Geometric, LogNormal, Uniform

    if text is None:
        return default
    if ":" not in text:
        return Fixed(_number_of_tokens(option, text))
    kinds: Kinds[Lengths] = {
        "uniform": lambda low, high: Uniform(whole(option, low), whole(option, high)),
        "geometric": Geometric,
        "lognormal": LogNormal,
    }
    return of_kind(option, text, kinds)


def _number_of_tokens(option: str, text: str) -> int:
    try:
        tokens = int(text)
    except ValueError:
        raise refuse(option, text, "one of N, uniform, geometric, lognormal") from None
    check_number(tokens, option, "1 or more", lambda tokens: tokens >= 1)
    return tokens


def _arrivals(text: str) -> Arrivals:
    from pearl.simulator.workload import ClosedLoop, Poisson

    kind, _, rest = text.partition(":")
    if kind == "file":
        return _arrival_times(rest)
    kinds: Kinds[Arrivals] = {
        "closed": lambda users: ClosedLoop(whole("arrivals", users)),
        "poisson": Poisson,
    }
    return of_kind("arrivals", text, kinds, others=("file",))


def _arrival_times(file: str) -> Arrivals:
    from pearl.simulator.workload import Times

    wanted = "; one number of seconds a line"
    with or_refuse(SettingError, f"arrivals cannot be read from {file}", wanted):
        lines = files.text(files.read(pathlib.Path(file))).split()
        return Times(tuple(map(float, lines)))


def fault(text: str) -> Fault:
    from pearl.simulator.faults import Fault, FaultKind

    allowed = "DEVICE:KIND:AT:SECONDS[:FACTOR], such as draft:crash:2:5 or target:slow:0:10:3"
    try:
        device, kind, *numbers = text.split(":")
        at, seconds, *factor = map(float, numbers)
        (slower,) = factor or (1.0,)
        named = Device(Role(device)), FaultKind(kind)
    except ValueError:
        raise refuse("fault", text, allowed) from None
    return Fault(device=named[0], kind=named[1], at=at, seconds=seconds, factor=slower)
