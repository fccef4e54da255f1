"""Requests and networks that Hypothesis draws, and what must hold of every one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st

from pearl.decoding.coins import CounterCoins
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.messages import TokenId
from pearl.decoding.policies import POLICIES, Gamma
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import StopRules
from pearl.decoding.text import Detokenizer
from pearl.decoding.verification import VERIFIERS
from tests.decoding.enumeration import honest
from tests.decoding.network import Move, Network, Script
from tests.decoding.toys import Pair, ToyDevices, autoregressive, similar

VOCAB: Final = 4
LETTERS: Final = "abcd"
SMALL: Final = (1, 2, 3, 5)


def spelled(tokens: Sequence[TokenId]) -> str:
    return "".join(LETTERS[token] for token in tokens)


@st.composite
def requests(
    draw: st.DrawFn,
    schedules: Sequence[str] | None = None,
    gammas: Sequence[Gamma] | None = None,
    verifiers: Sequence[str] | None = None,
) -> Settings:
    """Any of the tables, or some of them."""
    schedule = draw(st.sampled_from(schedules or list(SCHEDULES)))
    verifier = draw(st.sampled_from(verifiers or list(VERIFIERS)))
    windows: list[Gamma] = [*SMALL, *POLICIES]
    kind, samples = SCHEDULES[schedule], VERIFIERS[verifier].samples
    return Settings(
        schedule=schedule,
        gamma=draw(st.sampled_from(gammas or windows)),
        head_start=draw(st.integers(0, 3)) if kind.takes("head_start") else 0,
        strict=kind.takes("strict") and draw(st.booleans()),
        verifier=verifier,
        sampling=Sampling(temperature=draw(st.sampled_from([0.5, 1.0])) if samples else 0.0),
        seed=draw(st.integers(0, 5)),
        max_new_tokens=draw(st.integers(1, 14)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """What is in the way of a request.

    Args:
        share: of the target's logits in the draft's.
        eos, strings: what ends its text.
        script: of a hostile network.
        reach: how much of the text the draft can hold.
    """

    share: float
    eos: frozenset[TokenId]
    strings: tuple[str, ...]
    script: Script
    reach: int | None


scripts: Final = st.lists(st.tuples(st.sampled_from(Move), st.integers(0, 5)), max_size=60)
ENDS: Final = [(frozenset[int](), ()), (frozenset({3}), ()), (frozenset[int](), ("ab",))]


@st.composite
def troubles(draw: st.DrawFn) -> Trouble:
    eos, strings = draw(st.sampled_from(ENDS))
    return Trouble(
        share=draw(st.sampled_from([0.0, 0.5, 0.8, 1.0])),
        eos=eos,
        strings=strings,
        script=draw(scripts),
        reach=draw(st.none() | st.integers(-2, 14)),
    )


def decode(
    settings: Settings, pair: Pair, stop: StopRules, script: Script, reach: int | None = None
) -> Network:
    """Run a request through all of it; the network is a referee."""
    verifier = honest(settings, CounterCoins(settings.seed))
    schedule = settings.start(stop, reach=reach)
    network = Network(schedule, ToyDevices(pair, verifier), stop)
    network.play(script)
    network.finish()
    return network


def check_text(asked: Settings, trouble: Trouble) -> None:
    """The referee is content, and the text is the target's own where the verifier promises it."""
    text = Detokenizer(spelled)
    limit = asked.max_new_tokens
    stop = StopRules(limit=limit, eos=trouble.eos, strings=trouble.strings, text=text)
    pair = similar(VOCAB, seed=asked.seed, share=trouble.share)

    network = decode(asked, pair, stop, trouble.script, trouble.reach)

    if asked.verifier_kind.same_text:
        alone = autoregressive(pair.target, honest(asked, CounterCoins(asked.seed)), stop)
        assert tuple(network.schedule.committed) == alone
