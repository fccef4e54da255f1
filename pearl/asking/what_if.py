"""The options of what-if questions, and the scenario they describe together."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from pearl.asking.loads import fault, workload
from pearl.asking.values import Kinds, NameIn, check_number, of_kind, refuse
from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES, who_take
from pearl.decoding.settings import Settings, parse_gamma

if TYPE_CHECKING:
    from pearl.simulator.acceptance import Acceptance
    from pearl.simulator.costs import AnyCost
    from pearl.simulator.links import Network
    from pearl.simulator.profiles import Profile
    from pearl.simulator.world import Pair, Scenario

ALPHA: Final = 0.8
SPEED_RATIO: Final = 5.0
TARGET_MS: Final = 31.25  # a power of two in seconds, so that sums of it are exact

SCHEDULE = [
    click.option("--schedule", type=NameIn(SCHEDULES),
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
                 help="The target waits for every command; by default it begins a job that it "
                 "knows without waiting, as the real one does."),
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

REPLICATIONS = [
    click.option("--replications", type=int, default=5, show_default=True, metavar="N",
                 help="Independent repetitions; intervals are over them."),
    click.option("--seed", type=int, default=0, show_default=True,
                 help="Of all randomness; the same seed gives the same answer."),
]  # fmt: skip


def scenario(given: Mapping[str, Any]) -> Scenario:
    """What the options describe.

    Raises:
        SettingError: one of them is outside its range, or two contradict each other.
    """
    from pearl.simulator.world import Scenario

    profile = read_profile(given["profile_file"])
    return Scenario(
        settings=schedule_settings(given),
        pair=pair(given, profile),
        acceptance=acceptance(given, profile),
        network=network(given, profile),
        workload=workload(given, profile),
        faults=tuple(map(fault, given["faults"])),
    )


def schedule_settings(given: Mapping[str, Any]) -> Settings:
    """The schedule with its numbers."""
    name: str = given["schedule"]
    barrier = SCHEDULES[name].takes("strict")
    if given["cancel"] and not barrier:
        raise refuse("cancel", "set", f"left out with schedule {name}: {who_take('strict')} only")
    return Settings(
        schedule=name,
        gamma=parse_gamma(given["gamma"]),
        head_start=given["head_start"],
        strict=barrier and not given["cancel"],
    )


def read_profile(file: str | None) -> Profile | None:
    """The profile that was named, if one was."""
    if file is None:
        return None
    from pearl.simulator import profiles

    return profiles.read(pathlib.Path(file))


# -- the pair ----------------------------------------------------------------------------------


def pair(given: Mapping[str, Any], profile: Profile | None) -> Pair:
    """How long forwards take."""
    from pearl.simulator.world import Pair

    check_number(given["speed_ratio"], "speed-ratio", "more than 0", lambda c: c > 0)
    check_number(given["target_ms"], "target-ms", "more than 0", lambda ms: ms > 0)
    check_number(given["growth"], "growth", "0 or more", lambda share: share >= 0)
    check_number(given["jitter"], "jitter", "0 or more", lambda spread: spread >= 0)
    if given["jitter"] and profile is not None:
        raise SettingError("jitter contradicts profile: its times vary as they were measured")
    timed = given["draft_time"] is not None or given["target_time"] is not None
    simple = given["speed_ratio"] is not None or given["target_ms"] is not None or given["growth"]
    if simple and (timed or profile is not None):
        other = "profile" if profile is not None else "draft-time and target-time"
        message = f"speed-ratio, target-ms and growth contradict {other}; give one or the other"
        raise SettingError(message)
    if timed and (given["draft_time"] is None or given["target_time"] is None):
        raise SettingError("draft-time and target-time go together; give both")
    if timed:
        draft, target = _time(given["draft_time"]), _time(given["target_time"])
    elif profile is not None:
        draft, target = profile.pair.draft, profile.pair.target
    else:
        seconds = (given["target_ms"] or TARGET_MS) / 1e3
        made = Pair.of(given["speed_ratio"] or SPEED_RATIO, seconds, given["growth"])
        draft, target = made.draft, made.target
    return Pair(draft=_spread(draft, given["jitter"]), target=_spread(target, given["jitter"]))


def _spread(cost: AnyCost, variation: float) -> AnyCost:
    from pearl.simulator.costs import Measured, Spread

    if not variation or isinstance(cost, Measured | Spread):
        return cost
    return Spread(around=cost, variation=variation)


def _time(text: str) -> AnyCost:
    """`constant:30`, `affine:30,0.5`, `roofline:…`; milliseconds on the way in."""
    from pearl.simulator.costs import Constant

    kinds: Kinds[AnyCost] = {
        "constant": lambda ms: Constant(ms / 1e3),
        "affine": _affine,
        "roofline": _roofline,
    }
    return of_kind("draft-time or target-time", text, kinds)


def _affine(ms: float, token: float = 0.0, row: float = 0.0, position: float = 0.0) -> AnyCost:
    from pearl.simulator.costs import Affine

    return Affine(
        base=ms / 1e3, per_token=token / 1e3, per_row=row / 1e3, per_position=position / 1e3
    )


def _roofline(  # noqa: PLR0917 - the numbers of one specification, in its order
    gb: float, kb: float, gflop: float, gb_per_s: float, tflop_per_s: float, launch_ms: float = 0.0
) -> AnyCost:
    from pearl.simulator.costs import Roofline

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
    from pearl.simulator.links import Link, Network

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
    from pearl.simulator.acceptance import Independent, Replay

    alpha, kind = given["alpha"], given["acceptance"]
    check_number(alpha, "alpha", "from 0 to 1", lambda a: 0 <= a <= 1)
    if alpha is not None and kind is not None:
        raise SettingError(f"alpha {alpha} and acceptance {kind} are both given; give one")
    if kind is not None:
        return _acceptance(kind)
    if alpha is None and profile is not None:
        return Replay(profile.luck.texts)
    return Independent(ALPHA if alpha is None else alpha)


def _acceptance(text: str) -> Acceptance:
    from pearl.simulator.acceptance import Bursts, Independent, Positions

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
    from pearl.simulator.acceptance import Mixture

    try:
        parts = [tuple(map(float, part.split("*"))) for part in text.split(",")]
        rates, weights = zip(*((rate, weight) for rate, weight in parts), strict=True)
    except ValueError:
        raise refuse("acceptance", f"mixture:{text}", "mixture:RATE*WEIGHT,RATE*WEIGHT") from None
    return Mixture(rates, weights)


def _replay(file: str) -> Acceptance:
    """Where draft and target agreed in a recorded run; of a file cut off, what can be read."""
    from pearl.decoding import trace
    from pearl.decoding.exchanges import agreement
    from pearl.simulator.acceptance import Replay

    _, records, whole = trace.read(pathlib.Path(file))
    found = Replay(tuple(text for text in agreement(records).values() if text.strip("?")))
    if not whole:
        click.echo(f"pearl: {file} is cut off; {len(records)} records of it are read", err=True)
    return found


def halfway(profile: Profile) -> int:
    """Tokens behind a pass halfway through a request of the profile."""
    count = max(1, len(profile.prompts))
    return round((sum(profile.prompts) + sum(profile.outputs) / 2) / count)
