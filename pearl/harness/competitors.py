"""Who competes: families of systems, and the candidates that each family is tuned over."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from pearl.decoding.settings import Settings
from pearl.harness.systems import combinations, name_of

if TYPE_CHECKING:
    from pearl.actors.runners.reference import Assistance
    from pearl.actors.stand_ins import StandIn
    from pearl.decoding.messages import Role

THRESHOLDS: Final = (0.0, 0.4)  # never stop early, and the library's own default


class Family(enum.StrEnum):
    """Who competes; of each the best one is measured."""

    AR = "AR"
    SD = "SD"
    STRICT = "PEARL strict"
    PEARL = "PEARL"
    AUTO = "PEARL auto"
    PLAIN = "HF generate"
    ASSISTED = "HF assisted"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StandIns:
    """Devices without models: what each does, and how often the draft guesses a token."""

    kind: str
    devices: Mapping[Role, StandIn]
    acceptance: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """What is to be run.

    Args:
        settings: of AR; all others are the same but for their schedule.
        gammas, head_starts, assistant_tokens: of the candidates.
        rounds: how often every prompt is decoded by every system that is measured.
        tuning_prompts: on how many of the prompts candidates are tried.
        reference: whether the library competes.
        stand_ins: in place of models; the library has none then.
    """

    settings: Settings
    gammas: tuple[int, ...]
    head_starts: tuple[int, ...]
    assistant_tokens: tuple[int, ...]
    rounds: int
    tuning_prompts: int
    reference: bool
    stand_ins: StandIns | None = None

    @property
    def widest(self) -> Settings:
        """What needs the most room behind a prompt."""
        gamma = max(self.gammas)
        return replace(self.settings, schedule="pearl", gamma=gamma)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Competitor:
    """One system: a schedule of ours, or the library's `generate`, alone or assisted."""

    family: Family
    name: str
    way: Settings | Assistance | None


def candidates(contest: Contest) -> dict[Family, list[Competitor]]:
    """All that compete, by family."""
    alone, pearl = contest.settings, ["pearl"]
    strict = replace(alone, schedule="pearl", strict=True)
    ours: dict[Family, list[Settings]] = {
        Family.AR: [alone],
        Family.SD: combinations(alone, ["sd"], contest.gammas),
        Family.STRICT: combinations(strict, pearl, contest.gammas),
        Family.PEARL: combinations(alone, pearl, contest.gammas, contest.head_starts),
        Family.AUTO: combinations(alone, pearl, ["auto"]),
    }
    found = {
        family: [Competitor(family=family, name=name_of(way), way=way) for way in ways]
        for family, ways in ours.items()
    }
    if contest.reference:
        found[Family.PLAIN] = [Competitor(family=Family.PLAIN, name=Family.PLAIN, way=None)]
        found[Family.ASSISTED] = list(_assisted(contest.assistant_tokens))
    return found


def _assisted(tokens: Sequence[int]) -> Iterator[Competitor]:
    from pearl.actors.runners.reference import Assistance

    family = Family.ASSISTED
    yield Competitor(family=family, name=f"{family}, defaults", way=Assistance())
    for count in tokens:
        for threshold in THRESHOLDS:
            name = f"{family} {count}" + (f", threshold {threshold:g}" if threshold else "")
            way = Assistance(tokens=count, threshold=threshold)
            yield Competitor(family=family, name=name, way=way)
