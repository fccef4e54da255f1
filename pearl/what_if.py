"""The options of what-if questions, and the scenario they describe together.

A kind with its numbers is written `kind:number,number`: `bursts:0.8,0.3`, `uniform:64,256`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import click
import msgspec

from decoding import files
from decoding.errors import SettingError
from decoding.messages import Device, Role
from decoding.settings import ScheduleName, Settings, parse_gamma

if TYPE_CHECKING:
    from simulator.acceptance import Acceptance
    from simulator.costs import AnyCost
    from simulator.faults import Fault
    from simulator.links import Network
    from simulator.profiles import Profile
    from simulator.workload import Arrivals, Lengths, Workload
    from simulator.world import Pair, Scenario

Made = TypeVar("Made")
Kinds: TypeAlias = Mapping[str, Callable[..., Made]]

ALPHA: Final = 0.8
SPEED_RATIO: Final = 5.0
TOKENS: Final = 20_000
TARGET_MS: Final = 31.25  # a power of two in seconds, so that sums of it are exact

SCHEDULE = [
    click.option("--schedule", type=click.Choice([str(name) for name in ScheduleName]),
                 default="pearl", show_default=True, help="Who works when."),
    click.option("--gamma", default="auto", show_default=True, metavar="N|auto",
                 help="Tokens in a draft window; auto follows what it sees, as the engine does."),
    click.option("--head-start", type=int, default=0, show_default=True, metavar="K",
                 help="PEARL: tokens the draft writes before the first pass after a rejection."),
    click.option("--cancel", is_flag=True,
                 help="PEARL: act on a verdict while its window is still being written, as the "
                 "engine does; without it rounds have a barrier, as in the paper."),
]  # fmt: skip

TOLD = [
    click.option("--told", is_flag=True,
                 help="The target waits for every command; by default it goes on where it knows "
                 "what follows, as the real one does."),
]  # fmt: skip

CERTAIN = [
    click.option("--alpha", type=float, metavar="A",
                 help=f"Acceptance rate, independent from token to token. [default: {ALPHA}]"),
    click.option("--acceptance", metavar="KIND",
                 help="independent:A · positions:A,A,… · bursts:A,CORRELATION · "
                 "mixture:A*WEIGHT,A*WEIGHT,… · replay:TRACE.json"),
    click.option("--speed-ratio", type=float, metavar="C",
                 help=f"A target pass over a draft step. [default: {SPEED_RATIO:g}]"),
    click.option("--target-ms", type=float, metavar="MS",
                 help=f"A target pass over one token. [default: {TARGET_MS}]"),
    click.option("--growth", type=float, metavar="G", default=0.0, show_default=True,
                 help="Every further token of a pass takes this share of a pass more."),
    click.option("--draft-time", metavar="KIND",
                 help="constant:MS · affine:MS,MS_PER_TOKEN[,MS_PER_ROW[,MS_PER_POSITION]] · "
                 "roofline:GB,KB_PER_POSITION,GFLOP_PER_TOKEN,GB_PER_S,TFLOP_PER_S[,LAUNCH_MS]"),
    click.option("--target-time", metavar="KIND", help="The same for the target."),
    click.option("--link-ms", type=float, metavar="MS", default=0.0, show_default=True,
                 help="Latency of every message between scheduler and device."),
    click.option("--control-ms", type=float, metavar="MS", default=0.0, show_default=True,
                 help="What the scheduler takes from an answer to each command."),
    *TOLD,
    click.option("--profile", "profile_file", metavar="FILE",
                 help="Times, links and acceptance as `pearl profile` measured them."),
]  # fmt: skip

CHANCE = [
    click.option("--jitter", type=float, metavar="V", default=0.0, show_default=True,
                 help="Every forward varies: standard deviation over mean."),
    click.option("--link-jitter-ms", type=float, metavar="MS", default=0.0, show_default=True,
                 help="Mean of a random time on top of it."),
]  # fmt: skip

PAIR = [*CERTAIN, *CHANCE]

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

REPLICATIONS = [
    click.option("--replications", type=int, default=5, show_default=True, metavar="N",
                 help="Independent repetitions; intervals are over them."),
    click.option("--seed", type=int, default=0, show_default=True,
                 help="Of all luck; the same seed gives the same answer."),
]  # fmt: skip


def refuse(option: str, value: object, allowed: str) -> SettingError:
    """The one line for a value that cannot be."""
    return SettingError(f"{option} is {value}; it must be {allowed}")


def scenario(given: Mapping[str, Any]) -> Scenario:
    """What the options describe.

    Raises:
        SettingError: one of them is outside its range, or two contradict each other.
    """
    from simulator.world import Scenario

    profile, settings = read_profile(given["profile_file"]), schedule_settings(given)
    return Scenario(
        settings=settings,
        pair=pair(given, profile, settings),
        acceptance=acceptance(given, profile),
        network=network(given, profile),
        workload=workload(given, profile),
        faults=tuple(map(_fault, given["faults"])),
    )


def schedule_settings(given: Mapping[str, Any]) -> Settings:
    """The schedule with its numbers."""
    name = ScheduleName(given["schedule"])
    parallel = name is ScheduleName.PEARL
    if given["cancel"] and not parallel:
        raise refuse("cancel", "set", f"left out with schedule {name}: PEARL only")
    return Settings(
        schedule=name,
        gamma=parse_gamma(given["gamma"]),
        head_start=given["head_start"],
        strict=parallel and not given["cancel"],
    )


def read_profile(file: str | None) -> Profile | None:
    """The profile that was named, if one was."""
    if file is None:
        return None
    from simulator import profiles

    return profiles.read(pathlib.Path(file))


# -- the pair ----------------------------------------------------------------------------------


def pair(given: Mapping[str, Any], profile: Profile | None, settings: Settings) -> Pair:
    """How long forwards take; measured ones depend on whether the draft works beside them."""
    from simulator.world import Pair

    check_number(given["speed_ratio"], "speed-ratio", "more than 0", lambda c: c > 0)
    check_number(given["target_ms"], "target-ms", "more than 0", lambda ms: ms > 0)
    check_number(given["growth"], "growth", "0 or more", lambda share: share >= 0)
    check_number(given["jitter"], "jitter", "0 or more", lambda spread: spread >= 0)
    timed = given["draft_time"] is not None or given["target_time"] is not None
    simple = given["speed_ratio"] is not None or given["target_ms"] is not None or given["growth"]
    if simple and (timed or profile is not None):
        other = "profile" if profile is not None else "draft-time and target-time"
        message = f"speed-ratio, target-ms and growth contradict {other}; give one or the other"
        raise SettingError(message)
    if timed and (given["draft_time"] is None or given["target_time"] is None):
        message = "draft-time and target-time go together; give both"
        raise SettingError(message)
    if timed:
        draft, target = _time(given["draft_time"]), _time(given["target_time"])
    elif profile is not None:
        draft, target = profile.pair.draft, profile.target(settings)
    else:
        seconds = (given["target_ms"] or TARGET_MS) / 1e3
        made = Pair.of(given["speed_ratio"] or SPEED_RATIO, seconds, given["growth"])
        draft, target = made.draft, made.target
    return Pair(draft=_spread(draft, given["jitter"]), target=_spread(target, given["jitter"]))


def _spread(cost: AnyCost, variation: float) -> AnyCost:
    from simulator.costs import Spread

    if not variation or isinstance(cost, Spread):
        return cost
    return Spread(around=cost, variation=variation)


def _time(text: str) -> AnyCost:
    """`constant:30`, `affine:30,0.5`, `roofline:…`; milliseconds on the way in."""
    kinds: Kinds[AnyCost] = {"constant": _constant, "affine": _affine, "roofline": _roofline}
    return of_kind("draft-time or target-time", text, kinds)


def _constant(ms: float) -> AnyCost:
    from simulator.costs import Constant

    return Constant(ms / 1e3)


def _affine(ms: float, token: float = 0.0, row: float = 0.0, position: float = 0.0) -> AnyCost:
    from simulator.costs import Affine

    return Affine(
        base=ms / 1e3, per_token=token / 1e3, per_row=row / 1e3, per_position=position / 1e3
    )


def _roofline(  # noqa: PLR0917 - the numbers of one specification, in its order
    gb: float, kb: float, gflop: float, gb_per_s: float, tflop_per_s: float, launch_ms: float = 0.0
) -> AnyCost:
    from simulator.costs import Roofline

    return Roofline(
        weight_bytes=gb * 1e9,
        position_bytes=kb * 1e3,
        token_flops=gflop * 1e9,
        bandwidth=gb_per_s * 1e9,
        rate=tflop_per_s * 1e12,
        launch=launch_ms / 1e3,
    )


def network(given: Mapping[str, Any], profile: Profile | None) -> Network:
    """Links and control; what was measured, unless something is given."""
    from simulator.links import Link, Network

    names = ("link_ms", "link_jitter_ms", "control_ms")
    for name in names:
        check_number(given[name], name.replace("_", "-"), "0 or more", lambda ms: ms >= 0)
    if profile is not None and not any(given[name] for name in names):
        return measured_network(profile, told=given["told"])
    link = Link(latency_s=given["link_ms"] / 1e3, jitter_s=given["link_jitter_ms"] / 1e3)
    control_s = given["control_ms"] / 1e3
    return Network(draft=link, target=link, control_s=control_s, foresight=not given["told"])


def measured_network(profile: Profile, *, told: bool) -> Network:
    """A profile's links; of a target that waits for every command, if asked for."""
    network = profile.network
    return msgspec.structs.replace(network, foresight=network.foresight and not told)


def acceptance(given: Mapping[str, Any], profile: Profile | None) -> Acceptance:
    """How often the draft agrees."""
    from simulator.acceptance import Independent, Replay

    alpha, kind = given["alpha"], given["acceptance"]
    check_number(alpha, "alpha", "from 0 to 1", lambda a: 0 <= a <= 1)
    if alpha is not None and kind is not None:
        message = f"alpha {alpha} and acceptance {kind} are both given; give one"
        raise SettingError(message)
    if kind is not None:
        return _acceptance(kind)
    if alpha is None and profile is not None:
        return Replay(profile.luck.texts)
    return Independent(ALPHA if alpha is None else alpha)


def _acceptance(text: str) -> Acceptance:
    from simulator.acceptance import Bursts, Independent, Positions

    kind, _, rest = text.partition(":")
    if kind == "replay":
        return _replay(rest)
    if kind == "mixture":
        return _mixture(rest)
    kinds: Kinds[Acceptance] = {
        "independent": Independent,
        "positions": lambda *rates: Positions(rates),
        "bursts": Bursts,
    }
    return of_kind("acceptance", text, kinds, others=("mixture", "replay"))


def _mixture(text: str) -> Acceptance:
    from simulator.acceptance import Mixture

    try:
        parts = [tuple(map(float, part.split("*"))) for part in text.split(",")]
        rates, weights = zip(*((rate, weight) for rate, weight in parts), strict=True)
    except ValueError:
        raise refuse("acceptance", f"mixture:{text}", "mixture:RATE*WEIGHT,RATE*WEIGHT") from None
    return Mixture(rates, weights)


def _replay(file: str) -> Acceptance:
    """The luck of a recorded run; of a file that was cut off, what can be read."""
    from decoding import trace
    from decoding.exchanges import agreement
    from simulator.acceptance import Replay

    _, records, whole = trace.read(pathlib.Path(file))
    found = Replay(tuple(text for text in agreement(records).values() if text.strip("?")))
    if not whole:
        click.echo(f"pearl: {file} is cut off; {len(records)} records of it are read", err=True)
    return found


# -- the workload ------------------------------------------------------------------------------


def workload(given: Mapping[str, Any], profile: Profile | None) -> Workload:
    """Which requests come, when, and how long they are."""
    from simulator.workload import Fixed, Workload

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
    from simulator.workload import Fixed, Geometric, LogNormal, Uniform

    if text is None:
        return default
    if ":" not in text:
        return Fixed(_number_of_tokens(option, text))
    kinds: Kinds[Lengths] = {
        "uniform": lambda low, high: Uniform(_whole(option, low), _whole(option, high)),
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
    from simulator.workload import ClosedLoop, Poisson

    kind, _, rest = text.partition(":")
    if kind == "file":
        return _arrival_times(rest)
    kinds: Kinds[Arrivals] = {
        "closed": lambda users: ClosedLoop(_whole("arrivals", users)),
        "poisson": Poisson,
    }
    return of_kind("arrivals", text, kinds, others=("file",))


def _arrival_times(file: str) -> Arrivals:
    from simulator.workload import Times

    try:
        lines = files.text(files.read(pathlib.Path(file))).split()
        return Times(tuple(map(float, lines)))
    except (OSError, ValueError) as error:
        why = files.reason(error) if isinstance(error, OSError) else error
        message = f"arrivals cannot be read from {file}: {why}; one number of seconds a line"
        raise SettingError(message) from None


def _fault(text: str) -> Fault:
    from simulator.faults import Fault, FaultKind

    allowed = "DEVICE:KIND:AT:SECONDS[:FACTOR], such as draft:crash:2:5 or target:slow:0:10:3"
    try:
        device, kind, *numbers = text.split(":")
        at, seconds, *factor = map(float, numbers)
        (slower,) = factor or (1.0,)
        named = Device(Role(device)), FaultKind(kind)
    except ValueError:
        raise refuse("fault", text, allowed) from None
    return Fault(device=named[0], kind=named[1], at=at, seconds=seconds, factor=slower)


# -- values ------------------------------------------------------------------------------------


def check_number(
    value: float | None, option: str, allowed: str, fine: Callable[[float], bool]
) -> None:
    """Refuse a number outside its range, not-a-number and infinity; None was not given."""
    if value is not None and not (fine(value) and abs(value) < float("inf")):
        raise refuse(option, value, allowed)


def check_seed(seed: int) -> None:
    """Of simulations; as large as that of a real run can be."""
    check_number(seed, "seed", "0 or more, of 64 bits", lambda n: 0 <= n < 2**63)


def of_kind(option: str, text: str, kinds: Kinds[Made], others: Sequence[str] = ()) -> Made:
    """`kind:number,number` as what it stands for."""
    kind, _, rest = text.partition(":")
    if kind not in kinds:
        raise refuse(option, text, f"one of {', '.join([*others, *kinds])}")
    try:
        numbers = [float(number) for number in rest.split(",")]
    except ValueError:
        raise refuse(option, text, f"{kind}: and numbers between commas") from None
    try:
        return kinds[kind](*numbers)
    except TypeError:
        raise refuse(option, text, f"{kind} with another count of numbers") from None
    except SettingError as error:
        message = f"{option} is {text}: {error}"
        raise SettingError(message) from None


def _whole(option: str, number: float) -> int:
    if not number.is_integer():
        raise refuse(option, number, "a whole number")
    return int(number)
