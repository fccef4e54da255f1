"""What one request asks for, checked where it enters.

A `Settings` is made once, at the edge; inside, functions take the values they need. It crosses
the wire to the scheduler as it is.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import msgspec

from pearl.decoding.errors import SettingError
from pearl.decoding.kinds import SCHEDULES, ScheduleKind, who_take
from pearl.decoding.measured import Measurements
from pearl.decoding.policies import POLICIES, FixedPolicy, Gamma, Policy
from pearl.decoding.sampling import Sampling, refuse_unless, take_flag, take_whole
from pearl.decoding.schedules import TwoModelSchedule
from pearl.decoding.stopping import StopRules
from pearl.decoding.verification import COUPLED, VERIFIERS, VerifierKind, effective_verifier

WIDEST_GAMMA: Final = 256


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How to generate.

    Args:
        schedule: a name of `pearl.decoding.kinds.SCHEDULES`: `ar` (the target alone), `sd`
            (speculative decoding) or `pearl`.
        gamma: tokens in a draft window, or a name of `pearl.decoding.policies.POLICIES`: `auto`,
            chosen from what is measured while it runs.
        head_start: PEARL only: tokens the draft writes before the first pass after a rejection.
        strict: PEARL only: rounds with a barrier and nothing cancelled, as in the paper.
        verifier: a name of `pearl.decoding.verification.VERIFIERS`; None takes `greedy` at
            temperature 0 and `coupled` above.
        sampling: temperature and filters.
        seed: of every coin; the same seed gives the same tokens (greedy and coupled).
        max_new_tokens: the most tokens to generate.
        stop: texts that end the request where they first appear; the name of a special token,
            which no text shows, ends it at that token.
    """

    schedule: str = "pearl"
    gamma: Gamma = "auto"
    head_start: int = 0
    strict: bool = False
    verifier: str | None = None
    sampling: Sampling = Sampling()
    seed: int = 0
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be done, and take numbers of other libraries for plain ones."""
        self._known("schedule", SCHEDULES)
        if self.verifier is not None:
            self._known("verifier", VERIFIERS)
        if not _names(self.gamma, POLICIES):
            take_whole(self, "gamma", _allowed_gamma(), least=1, most=WIDEST_GAMMA)
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

    def _known(self, field: str, table: Collection[str]) -> None:
        allowed = f"one of {', '.join(table)}"
        refuse_unless(self, field, allowed, fine=_names(getattr(self, field), table))

    def _refuse_contradictions(self) -> None:
        if self.sampling.temperature > 0 and not self.verifier_kind.samples:
            allowed = f"0 with the {self.verifier} verifier; take the {COUPLED} one to sample"
            refuse_unless(self.sampling, "temperature", allowed, fine=False)
        for name in ("head_start", "strict"):
            allowed = f"left out with schedule {self.schedule}: {who_take(name)} only"
            meant = not getattr(self, name) or self.kind.takes(name)
            refuse_unless(self, name, allowed, fine=meant)

    @property
    def kind(self) -> ScheduleKind:
        """What is true of all schedules of this name."""
        return SCHEDULES[self.schedule]

    @property
    def effective_verifier(self) -> str:
        """The name of the verifier that runs."""
        return effective_verifier(self.verifier, self.sampling.temperature)

    @property
    def verifier_kind(self) -> VerifierKind:
        """What is true of all verifiers of that name."""
        return VERIFIERS[self.effective_verifier]

    @property
    def adapts(self) -> bool:
        """Whether its windows follow the times that are measured."""
        return isinstance(self.gamma, str) and self.kind.drafts and POLICIES[self.gamma].adapts

    @property
    def widest(self) -> int:
        """The most pending tokens a job may have, head start included; 0 without a draft."""
        gamma = self.gamma if isinstance(self.gamma, int) else POLICIES[self.gamma].widest
        before, beside = self.kind.numbers(gamma, self.head_start)
        return int(max(before, beside))

    def policy(self, measured: Measurements | None = None) -> Policy:
        """The two numbers of the schedule; a policy belongs to one request."""
        kind, head_start = self.kind, self.head_start
        if isinstance(self.gamma, str) and kind.drafts:
            start = POLICIES[self.gamma].start
            return start(kind, head_start=head_start, barrier=self.strict, measured=measured)
        before, beside = kind.numbers(self.gamma, head_start)
        return FixedPolicy(before=before, beside=beside)

    def start(
        self, stop: StopRules, measured: Measurements | None = None, reach: int | None = None
    ) -> TwoModelSchedule:
        """The schedule of a new request.

        Args:
            stop: when to end.
            measured: what a policy that adapts knows already.
            reach: the most tokens after the prompt that the draft can hold.
        """
        hold, policy = self.verifier_kind.carries_law, self.policy(measured)
        return TwoModelSchedule(policy, stop, hold=hold, strict=self.strict, reach=reach)


def parse_gamma(text: str) -> Gamma:
    """A gamma as typed: a whole number, or the name of a policy."""
    if text in POLICIES:
        return text
    try:
        return int(text)
    except ValueError:
        message = f"gamma is {text!r}; it must be {_allowed_gamma()}"
        raise SettingError(message) from None


def _allowed_gamma() -> str:
    return f"a whole number from 1 to {WIDEST_GAMMA}, or {', '.join(POLICIES)}"


def _names(value: object, table: Collection[str]) -> bool:
    return isinstance(value, str) and value in table
