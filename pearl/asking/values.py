"""Values as they are typed: a name, a number, several, a range, or a kind with its numbers.

Wherever one value is meant, there can be several: `0.5`, `0.5,0.6,0.7` or `0.5:0.7:0.1`. A kind
with its numbers is written `kind:number,number`: `bursts:0.8,0.3`, `uniform:64,256`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, final

import click

from pearl.decoding import files
from pearl.decoding.errors import SettingError, UsageError
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.policies import POLICIES, Gamma
from pearl.decoding.settings import WIDEST_GAMMA

Made = TypeVar("Made")
Kinds: TypeAlias = Mapping[str, Callable[..., Made]]

if TYPE_CHECKING:
    _ParamType = click.ParamType[str]
else:  # which older versions of click do not let us say
    _ParamType = click.ParamType

ROUNDING: Final = Decimal("1e-9")  # of a step, by which a range may fall short of its end
AXES: Final = "one value, A,B,C or START:STOP:STEP"


@final
class NameIn(_ParamType):
    """A name of a table, which is read when it is needed: entries may come later."""

    name = "name"

    def __init__(self, table: Mapping[str, object]) -> None:
        self._table = table

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002 - click's
        """All of them, for the help."""
        return f"[{'|'.join(self._table)}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """One of them, or click's own complaint."""
        return click.Choice(list(self._table)).convert(value, param, ctx)


def refuse(option: str, value: object, allowed: str) -> SettingError:
    """The one line for a value that cannot be."""
    return SettingError(f"{option} is {value}; it must be {allowed}")


@contextlib.contextmanager
def or_refuse(refusal: type[UsageError], message: str, end: str = "") -> Iterator[None]:
    """What fails in here, for a reason that the system or a parser gives, is refused in one line.

    Raises:
        UsageError: of the kind that is named: message, reason, end.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        why = files.reason(error) if isinstance(error, OSError) else error
        raise refusal(f"{message}: {why}{end}") from None


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
        raise SettingError(f"{option} is {text}: {error}") from None


def whole(option: str, number: float) -> int:
    if not number.is_integer():
        raise refuse(option, number, "a whole number")
    return int(number)


def schedules(text: str) -> tuple[str, ...]:
    """Names of schedules between commas, each once."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    if not set(names) <= set(SCHEDULES):
        raise refuse("schedules", text, f"some of {','.join(SCHEDULES)}")
    return names


def gammas(text: str) -> tuple[Gamma, ...]:
    """Windows: whole numbers, and policies that were named, in the order of the text."""
    found: list[Gamma] = []
    also = f", or {', '.join(POLICIES)}"
    for part in text.split(","):
        found += [part] if part in POLICIES else whole_numbers("gamma", part, 1, also=also)
    return tuple(dict.fromkeys(found))


def whole_numbers(
    option: str, text: str, least: int, most: int = WIDEST_GAMMA, *, also: str = ""
) -> tuple[int, ...]:
    """Whole numbers in a range, each once."""
    allowed = f"whole, from {least} to {most}{also}"
    fine: Callable[[float], bool] = lambda n: n.is_integer() and least <= n <= most  # noqa: E731
    return tuple(map(int, numbers(option, text, allowed, fine)))


def numbers(
    option: str,
    text: str | None,
    allowed: str,
    fine: Callable[[float], bool],
    default: str = "0",
) -> tuple[float, ...]:
    """The numbers that a text stands for, each once, as clean as they were typed.

    Raises:
        SettingError: it stands for none, for too many, or for one that is not fine.
    """
    given = default if text is None else text
    try:
        found = [value for part in given.split(",") for value in _part(option, part)]
    except (ValueError, ArithmeticError):
        raise refuse(option, given, f"{AXES}, each {allowed}") from None
    for value in found:
        if not (math.isfinite(value) and fine(value)):
            raise refuse(option, f"{value:g}", f"{AXES}, each {allowed}")
    return tuple(dict.fromkeys(found))


def _part(option: str, text: str) -> list[float]:
    """A number, or a range; in decimals, where 0.5 and a step of 0.02 make 0.52."""
    if ":" not in text:
        return [float(text)]
    from pearl.simulator.sweep import MOST_POINTS

    start, stop, step = map(Decimal, text.split(":"))
    finite = start.is_finite() and stop.is_finite() and step.is_finite()
    if not finite or step <= 0 or stop < start:
        raise ValueError("a range goes up, in steps above 0")
    steps = (stop - start) / step + ROUNDING
    if steps >= MOST_POINTS:  # of a step that is small enough there are more than a number can say
        raise refuse(option, text, f"a range of at most {MOST_POINTS} values")
    return [float(min(start + i * step, stop)) for i in range(int(steps) + 1)]
