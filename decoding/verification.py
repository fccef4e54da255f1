"""How a target judges draft tokens without changing its own distribution.

                 draft token at t        target's choice                    kept when
    greedy       argmax q                argmax p                           equal
    coupled      race of q, noise t      race of p, the same noise t        equal
    rejection    sample of q             norm(max(p - q, 0)) if refused     coin < p / q

p is the target's law at a position, q the draft's, both after the same warping. Verification
runs at the target, next to its logits; the same lines are run by numpy in the proofs
(tests/decoding) and by torch on a device.

Greedy and coupled return what the target alone would return with the same seed, token for token,
whatever the draft. Rejection (Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023,
arXiv:2302.01318) returns another sample of the same law.

A further verifier is a class and an entry of `VERIFIERS`.

Rule: a verifier's name is compared with another in this file only.

Logits of minus infinity mask a token out. A row with NaN or plus infinity, or with nothing else
than masks, is no law, and no token is made of it: `LogitsError`. Rows behind a token that was
refused are not looked at, as the target alone would not have come to them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Final, Protocol, final

import msgspec
import numpy as np
from array_api_compat import array_namespace, device, to_device

from pearl.decoding.coins import Array, Coins, CounterCoins, Purpose
from pearl.decoding.errors import ImpossibleDraftError, LogitsError
from pearl.decoding.messages import Drafted, TokenId
from pearl.decoding.sampling import Sampling


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The first `kept` tokens stand; `token` is the target's own next one, None if it is held."""

    kept: int
    token: TokenId | None


class Verifier(Protocol):
    """One verifier with its settings and coins; draft and target hold one each."""

    def draft(self, logits: Array, position: int) -> Drafted:
        """The draft's token at a position, from its logits, shape (1, vocab).

        Raises:
            LogitsError: they are no law.
        """

    def judge(self, logits: Array, drafted: Drafted, position: int, *, hold: bool) -> Verdict:
        """Judge the tokens from `position` on.

        Args:
            logits: the target's, shape (len(drafted) + 1, vocab); row i is of `position + i`.
            drafted: the tokens, with their laws where the verifier needs them.
            position: of the first token.
            hold: leave the choice after the last token open when all are kept.
        Raises:
            LogitsError: a row that counts is no law.
        """


def agreement(tokens: tuple[TokenId, ...], choices: tuple[TokenId, ...]) -> Verdict:
    """Follow the draft while it says what the target chose anyway; `choices` has one more."""
    kept = next((i for i, token in enumerate(tokens) if token != choices[i]), len(tokens))
    return Verdict(kept=kept, token=choices[kept])


@final
class Greedy:
    """The most likely token; of equals the first."""

    def draft(self, logits: Array, position: int) -> Drafted:
        """The draft's most likely token."""
        tokens = _most_likely(logits)
        _refuse_broken(logits, _values(logits, tokens), position)
        return Drafted(tokens=tokens)

    def judge(
        self,
        logits: Array,
        drafted: Drafted,
        position: int,
        *,
        hold: bool,  # noqa: ARG002 - the choice does not depend on the draft
    ) -> Verdict:
        """Keep what is the target's most likely token too."""
        choices = _most_likely(logits)
        verdict = agreement(drafted.tokens, choices)
        _refuse_broken(logits, _values(logits, choices[: verdict.kept + 1]), position)
        return verdict


@final
class Coupled:
    """Draft and target race with the same noise; what the target draws is what is returned."""

    def __init__(self, sampling: Sampling, coins: Coins) -> None:
        self._sampling = sampling
        self._coins = coins

    def draft(self, logits: Array, position: int) -> Drafted:
        """The draft's guess at what the target will draw."""
        return Drafted(tokens=(self._choice(logits, position),))

    def judge(
        self,
        logits: Array,
        drafted: Drafted,
        position: int,
        *,
        hold: bool,  # noqa: ARG002 - the choice does not depend on the draft
    ) -> Verdict:
        """Keep what the target draws too.

        On a CPU row by row, since rows behind the first disagreement need no draw; elsewhere a draw
        of all rows costs what one does.
        """
        tokens = drafted.tokens
        if str(device(logits)) != "cpu":
            laws = self._sampling.laws(logits)
            verdict = agreement(tokens, self._coins.draw(laws, position, Purpose.CHOOSE))
            _refuse_broken(logits, _marks(laws, verdict.kept + 1), position)
            return verdict
        for kept, token in enumerate(tokens):
            choice = self._choice(logits[kept : kept + 1, :], position + kept)
            if choice != token:
                return Verdict(kept=kept, token=choice)
        kept = len(tokens)
        return Verdict(kept=kept, token=self._choice(logits[kept:, :], position + kept))

    def _choice(self, logits: Array, position: int) -> TokenId:
        """What is drawn at a position, from its logits, shape (1, vocab)."""
        laws = self._sampling.laws(logits)
        (token,) = self._coins.draw(laws, position, Purpose.CHOOSE)
        _refuse_broken(logits, _marks(laws, 1), position)
        return token


@final
class Rejection:
    """Keep a draft token with probability min(1, p / q), else draw from what q left of p."""

    def __init__(self, sampling: Sampling, coins: Coins) -> None:
        self._sampling = sampling
        self._coins = coins

    def draft(self, logits: Array, position: int) -> Drafted:
        """A sample of q, and q."""
        laws = self._sampling.laws(logits)
        tokens = self._coins.draw(laws, position, Purpose.DRAFT)
        _refuse_broken(logits, _marks(laws, 1), position)
        return Drafted(tokens=tokens, laws=(_to_bytes(laws[0, :]),))

    def judge(self, logits: Array, drafted: Drafted, position: int, *, hold: bool) -> Verdict:
        """Test each token in turn; the first that fails is replaced."""
        laws = self._sampling.laws(logits)
        marks = _marks(laws, len(laws))
        for kept, token in enumerate(drafted.tokens):
            _refuse_broken(logits[kept:, :], marks[kept : kept + 1], position + kept)
            p, q = laws[kept, :], _from_bytes(drafted.laws[kept], laws)
            here = position + kept
            if not self._coins.accepts(acceptance(p, q, token), here, Purpose.ACCEPT):
                rest = residual(p, q)[None, :]
                return Verdict(kept=kept, token=self._coins.draw(rest, here, Purpose.REPLACE)[0])
        kept = len(drafted)
        if hold:
            return Verdict(kept=kept, token=None)
        _refuse_broken(logits[kept:, :], marks[kept:], position + kept)
        (token,) = self._coins.draw(laws[kept:, :], position + kept, Purpose.CHOOSE)
        return Verdict(kept=kept, token=token)


def acceptance(p: Array, q: Array, token: TokenId) -> float:
    """Probability that `token`, drawn from q, is kept: min(1, p / q).

    Raises:
        ImpossibleDraftError: q of the token is 0, so it cannot have been drawn.
    Source: Leviathan et al. 2023, arXiv:2211.17192, section 2.3 (p, q there = p, q here).
    """
    if not q[token] > 0:
        message = f"token {token} has draft probability 0; it cannot have been drafted"
        raise ImpossibleDraftError(message)
    return min(1.0, float(p[token]) / float(q[token]))


def residual(p: Array, q: Array) -> Array:
    """The law of the replacement: what q left of p, norm(max(p - q, 0)), shape (vocab,).

    Where q leaves nothing (p == q up to rounding) no token is ever refused but by rounding; the
    law is then p itself.
    """
    xp = array_namespace(p)
    left = xp.where(p > q, p - q, xp.zeros_like(p))
    mass = float(xp.sum(left))
    return left / mass if mass > 0 else p


def _most_likely(logits: Array) -> tuple[TokenId, ...]:
    if isinstance(logits, np.ndarray):  # the usual case; to ask for its namespace takes longer
        return tuple(logits.argmax(axis=-1).tolist())
    return tuple(array_namespace(logits).argmax(logits, axis=-1).tolist())


def _values(logits: Array, tokens: Sequence[TokenId]) -> list[float]:
    """The logits of the most likely tokens: NaN counts as the largest, in numpy and in torch."""
    if isinstance(logits, np.ndarray):
        return [float(logits[row, token]) for row, token in enumerate(tokens)]
    best: list[float] = array_namespace(logits).max(logits[: len(tokens), :], axis=-1).tolist()
    return best


def _marks(laws: Array, rows: int) -> list[float]:
    """A number of each law: what is wrong with a row of logits makes all of its law NaN."""
    marks: list[float] = laws[:rows, 0].tolist()
    return marks


def _refuse_broken(logits: Array, marks: Sequence[float], position: int) -> None:
    """Raise a LogitsError at the first row whose mark is no number; row 0 is of `position`."""
    for row, mark in enumerate(marks):
        if not math.isfinite(mark):
            best = float(array_namespace(logits).max(logits[row, :]))
            infinite = "plus infinity" if best == math.inf else "no possible token"
            what = "NaN" if math.isnan(best) else infinite
            message = f"the logits at position {position + row} after the prompt hold {what}"
            raise LogitsError(message)


def _to_bytes(law: Array) -> bytes:
    return np.asarray(to_device(law, "cpu")).tobytes()


def _from_bytes(law: bytes, like: Array) -> Array:
    xp = array_namespace(like)
    dtype = np.float64 if like.dtype == xp.float64 else np.float32
    expected = like.shape[-1] * np.dtype(dtype).itemsize
    if len(law) != expected:
        message = f"a draft's law has {len(law)} bytes; the target's rows have {expected}"
        raise ImpossibleDraftError(message)
    return xp.asarray(np.frombuffer(law, dtype).copy(), device=device(like))


# -- the table ---------------------------------------------------------------------------------


@final
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKind:
    """What is true of all verifiers of one name.

    Args:
        make: one, with its settings and coins.
        samples: whether it can draw tokens; one that cannot is for temperature 0 only.
        same_text: whether the text is the one that the target alone writes with the same seed.
        carries_law: whether a draft token must bring the law it was drawn from.
    """

    make: Callable[[Sampling, Coins], Verifier]
    samples: bool = True
    same_text: bool = True
    carries_law: bool = False


VERIFIERS: Final[dict[str, VerifierKind]] = {
    "greedy": VerifierKind(make=lambda _sampling, _coins: Greedy(), samples=False),
    "coupled": VerifierKind(make=Coupled),
    "rejection": VerifierKind(make=Rejection, same_text=False, carries_law=True),
}
GREEDY, COUPLED = "greedy", "coupled"
"""Which ones run at temperature 0 and above, where no other is asked for."""


def effective_verifier(name: str | None, temperature: float) -> str:
    """The verifier that runs: at temperature 0 one that samples has nothing to draw."""
    if temperature == 0:
        return GREEDY if name is None or VERIFIERS[name].samples else name
    return name or COUPLED


def make_verifier(name: str, sampling: Sampling, seed: int) -> Verifier:
    """The verifier of this name, with coins from this seed."""
    return VERIFIERS[name].make(sampling, CounterCoins(seed))
