"""What one request asks for, checked where it enters.

A `Settings` is made once, at the edge; inside, functions take the values they need. It crosses
the wire to the scheduler as it is.
"""

from __future__ import annotations

import enum
from typing import Any, Final, Literal, TypeAlias

import msgspec

from decoding.errors import SettingError
from decoding.measured import WIDEST, Measured
from decoding.plans import AUTOREGRESSIVE, AutoPlan, Plan, pearl, speculative
from decoding.sampling import Sampling, refuse_unless, take_flag, take_whole
from decoding.schedules import TwoModelSchedule
from decoding.stopping import StopRules
from decoding.verification import VerifierName

WIDEST_GAMMA: Final = 256
Gamma: TypeAlias = int | Literal["auto"]


class ScheduleName(enum.StrEnum):
    """The three schedules."""

    AR = "ar"
    SD = "sd"
    PEARL = "pearl"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to generate.

    Args:
        schedule: `ar` (the target alone), `sd` (speculative decoding) or `pearl`.
        gamma: tokens in a draft window, or `auto`: chosen from what is measured while it runs.
        head_start: PEARL only: tokens the draft writes before the first pass after a rejection.
        strict: PEARL only: rounds with a barrier and nothing cancelled, as in the paper.
        verifier: None takes `greedy` at temperature 0 and `coupled` above.
        sampling: temperature and filters.
        seed: of every coin; the same seed gives the same tokens (greedy and coupled).
        max_new_tokens: the most tokens to generate.
        stop: texts that end the request where they first appear; the name of a special token,
            which no text shows, ends it at that token.
    """

    schedule: ScheduleName = ScheduleName.PEARL
    gamma: Gamma = "auto"
    head_start: int = 0
    strict: bool = False
    verifier: VerifierName | None = None
    sampling: Sampling = Sampling()
    seed: int = 0
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take names for what they name, and refuse what cannot be done."""
        self._name("schedule", ScheduleName)
        if self.verifier is not None:
            self._name("verifier", VerifierName)
        if self.gamma != "auto":
            allowed = f"a whole number from 1 to {WIDEST_GAMMA}, or auto"
            take_whole(self, "gamma", allowed, least=1, most=WIDEST_GAMMA)
        allowed = f"a whole number from 0 to {WIDEST_GAMMA}"
        take_whole(self, "head_start", allowed, least=0, most=WIDEST_GAMMA)
        take_flag(self, "strict")
        refuse_unless(self, "sampling", "a Sampling", fine=isinstance(self.sampling, Sampling))
        take_whole(self, "max_new_tokens", "a whole number, 1 or more", least=1)
        take_whole(self, "seed", "a whole number of 64 bits", least=-(2**63))
        self._take_stop()
        self._refuse_contradictions()

    def _take_stop(self) -> None:
        """Several texts; a single one would be taken for its letters."""
        allowed = "several texts of at least one character, such as ('END',)"
        given: Any = self.stop
        several = isinstance(given, tuple | list)
        fine = several and all(isinstance(text, str) and text for text in given)
        refuse_unless(self, "stop", allowed, fine=fine)
        msgspec.structs.force_setattr(self, "stop", tuple(given))

    def _name(self, field: str, names: type[ScheduleName | VerifierName]) -> None:
        """Programs may say `"sd"` where the type says ScheduleName.SD."""
        known = ", ".join(names)
        refuse_unless(self, field, f"one of {known}", fine=getattr(self, field) in list(names))
        msgspec.structs.force_setattr(self, field, names(getattr(self, field)))

    def _refuse_contradictions(self) -> None:
        greedy, sampled = VerifierName.GREEDY, self.sampling.temperature > 0
        if self.verifier is greedy and sampled:
            allowed = "0 with the greedy verifier; take the coupled one to sample"
            refuse_unless(self.sampling, "temperature", allowed, fine=False)
        for name in ("head_start", "strict"):
            meant = not getattr(self, name) or self.schedule is ScheduleName.PEARL
            refuse_unless(
                self, name, f"left out with schedule {self.schedule}: PEARL only", fine=meant
            )

    @property
    def effective_verifier(self) -> VerifierName:
        """The verifier that runs: at temperature 0 every one of them is the greedy one."""
        if self.sampling.temperature == 0:
            return VerifierName.GREEDY
        return self.verifier or VerifierName.COUPLED

    @property
    def widest(self) -> int:
        """The most pending tokens a job may have, head start included; 0 without a draft."""
        if self.schedule is ScheduleName.AR:
            return 0
        gamma = WIDEST if self.gamma == "auto" else self.gamma
        return max(gamma, self.head_start)

    def plan(self, measured: Measured | None = None) -> Plan:
        """The two numbers of the schedule; a plan belongs to one request."""
        if self.schedule is ScheduleName.AR:
            return AUTOREGRESSIVE
        parallel = self.schedule is ScheduleName.PEARL
        if self.gamma == "auto":
            return AutoPlan(
                parallel=parallel,
                head_start=self.head_start,
                barrier=self.strict,
                measured=measured,
            )
        if parallel:
            return pearl(self.gamma, self.head_start)
        return speculative(self.gamma)

    def start(
        self, stop: StopRules, measured: Measured | None = None, reach: int | None = None
    ) -> TwoModelSchedule:
        """The schedule of a new request.

        Args:
            stop: when to end.
            measured: what `gamma="auto"` knows already.
            reach: the most tokens after the prompt that the draft can hold.
        """
        hold = self.effective_verifier.carries_law
        plan = self.plan(measured)
        return TwoModelSchedule(plan, stop, hold=hold, strict=self.strict, reach=reach)


def parse_gamma(text: str) -> Gamma:
    """A gamma as typed: a whole number, or `auto`."""
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        allowed = f"a whole number from 1 to {WIDEST_GAMMA}, or auto"
        message = f"gamma is {text!r}; it must be {allowed}"
        raise SettingError(message) from None
