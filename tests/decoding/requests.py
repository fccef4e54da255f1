"""The requests the proofs are made for: every schedule, with small windows."""

from __future__ import annotations

from typing import Final

import msgspec

from decoding.sampling import Sampling
from decoding.settings import ScheduleName, Settings
from decoding.verification import VerifierName

GAMMAS: Final = (1, 2, 3)
HEAD_STARTS: Final = (1, 2)

AR: Final = Settings(schedule=ScheduleName.AR, gamma=1)


def speculative(gamma: int) -> Settings:
    return Settings(schedule=ScheduleName.SD, gamma=gamma)


def pearl(gamma: int, head_start: int = 0, *, strict: bool = False) -> Settings:
    return Settings(schedule=ScheduleName.PEARL, gamma=gamma, head_start=head_start, strict=strict)


SCHEDULES: Final[dict[str, Settings]] = {
    "AR": AR,
    **{f"SD {gamma}": speculative(gamma) for gamma in GAMMAS},
    **{f"PEARL {gamma}": pearl(gamma) for gamma in GAMMAS},
    **{f"PEARL {gamma} strict": pearl(gamma, strict=True) for gamma in GAMMAS},
    **{
        f"PEARL {gamma} after {head_start}": pearl(gamma, head_start)
        for gamma in GAMMAS
        for head_start in HEAD_STARTS
    },
    "PEARL 2 after 1 strict": pearl(2, 1, strict=True),
    "SD auto": Settings(schedule=ScheduleName.SD, gamma="auto"),
    "PEARL auto": Settings(schedule=ScheduleName.PEARL, gamma="auto"),
}
FEW: Final = {
    name: SCHEDULES[name]
    for name in ("SD 2", "PEARL 2", "PEARL 3 strict", "PEARL 2 after 1", "PEARL auto")
}


def request(
    schedule: Settings, verifier: VerifierName | None, sampling: Sampling, length: int
) -> Settings:
    """This schedule with another verifier, law and length."""
    return msgspec.structs.replace(
        schedule, verifier=verifier, sampling=sampling, max_new_tokens=length
    )
