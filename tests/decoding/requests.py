"""The requests the proofs are made for: every schedule of the table, with small windows."""

from __future__ import annotations

from typing import Final

import msgspec

from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.policies import POLICIES, Gamma
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.verification import VERIFIERS

GAMMAS: Final = (1, 2, 3)
HEAD_STARTS: Final = (1, 2)

AR: Final = Settings(schedule="ar", gamma=1)


def speculative(gamma: int) -> Settings:
    return Settings(schedule="sd", gamma=gamma)


def pearl(gamma: int, head_start: int = 0, *, strict: bool = False) -> Settings:
    return Settings(schedule="pearl", gamma=gamma, head_start=head_start, strict=strict)


def requests_of(schedule: str) -> dict[str, Settings]:
    """Every window, number or policy, and every setting that the kind takes."""
    kind = SCHEDULES[schedule]
    if not kind.drafts:
        return {kind.title: Settings(schedule=schedule, gamma=1)}
    windows: list[Gamma] = [*GAMMAS, *POLICIES]
    found = [Settings(schedule=schedule, gamma=gamma) for gamma in windows]
    if kind.takes("strict"):
        found += [Settings(schedule=schedule, gamma=g, strict=True) for g in GAMMAS]
    if kind.takes("head_start"):
        numbers = [(g, k) for g in GAMMAS for k in HEAD_STARTS]
        found += [Settings(schedule=schedule, gamma=g, head_start=k) for g, k in numbers]
    if kind.takes("head_start") and kind.takes("strict"):
        found += [Settings(schedule=schedule, gamma=2, head_start=1, strict=True)]
    return {title(each): each for each in found}


def title(asked: Settings) -> str:
    ahead = f" after {asked.head_start}" if asked.head_start else ""
    return f"{asked.kind.title} {asked.gamma}{ahead}{' strict' * asked.strict}"


REQUESTS: Final = {name: each for kind in SCHEDULES for name, each in requests_of(kind).items()}
FEW: Final = {
    name: REQUESTS[name]
    for name in ("SD 2", "PEARL 2", "PEARL 3 strict", "PEARL 2 after 1", "PEARL auto")
}
SAMPLING_VERIFIERS: Final = [name for name, kind in VERIFIERS.items() if kind.samples]


def request(schedule: Settings, verifier: str | None, sampling: Sampling, length: int) -> Settings:
    """This schedule with another verifier, law and length."""
    return msgspec.structs.replace(
        schedule, verifier=verifier, sampling=sampling, max_new_tokens=length
    )
