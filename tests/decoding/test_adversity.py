"""Losses, copies, delays and deaths at any moment change nothing but the time it takes.

`tests.decoding.network.Network` is the referee: it checks every command, every answer and every
state on the way. Here Hypothesis looks for a script it would object to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hypothesis import given, settings
from hypothesis import strategies as st

from decoding.coins import CounterCoins
from decoding.messages import (
    DRAFT,
    TARGET,
    DeviceBack,
    DeviceLost,
    Drafted,
    Judge,
    Judged,
    Propose,
    TokenId,
)
from decoding.sampling import Sampling
from decoding.settings import ScheduleName, Settings
from decoding.stopping import FinishReason, StopRules
from decoding.text import Detokenizer
from decoding.verification import VerifierName
from tests.decoding.enumeration import honest
from tests.decoding.network import Move, Network, Script
from tests.decoding.requests import pearl
from tests.decoding.toys import Pair, ToyDevices, autoregressive, only, similar, table

VOCAB: Final = 4
LETTERS: Final = "abcd"


def spelled(tokens: Sequence[TokenId]) -> str:
    return "".join(LETTERS[token] for token in tokens)


@st.composite
def requests(draw: st.DrawFn) -> Settings:
    schedule = draw(st.sampled_from(ScheduleName))
    parallel = schedule is ScheduleName.PEARL
    verifier = draw(st.sampled_from(VerifierName))
    greedy = verifier is VerifierName.GREEDY
    return Settings(
        schedule=schedule,
        gamma=draw(st.sampled_from([1, 2, 3, 5, "auto"])),
        head_start=draw(st.integers(0, 3)) if parallel else 0,
        strict=parallel and draw(st.booleans()),
        verifier=verifier,
        sampling=Sampling(temperature=0.0 if greedy else draw(st.sampled_from([0.5, 1.0]))),
        seed=draw(st.integers(0, 5)),
        max_new_tokens=draw(st.integers(1, 14)),
    )


scripts = st.lists(st.tuples(st.sampled_from(Move), st.integers(0, 5)), max_size=60)
ends = st.sampled_from([(frozenset[int](), ()), (frozenset({3}), ()), (frozenset[int](), ("ab",))])
shares = st.sampled_from([0.0, 0.5, 0.8, 1.0])


reaches = st.none() | st.integers(-2, 14)


def decode(
    settings: Settings, pair: Pair, stop: StopRules, script: Script, reach: int | None = None
) -> Network:
    verifier = honest(settings, CounterCoins(settings.seed))
    schedule = settings.start(stop, reach=reach)
    network = Network(schedule, ToyDevices(pair, verifier), stop)
    network.play(script)
    network.finish()
    return network


@settings(max_examples=600)
@given(asked=requests(), share=shares, end=ends, script=scripts, reach=reaches)
def test_no_network_changes_what_is_said(
    asked: Settings,
    share: float,
    end: tuple[frozenset[int], tuple[str, ...]],
    script: Script,
    reach: int | None,
) -> None:
    """Greedy and coupled: the text is that of the target alone, whatever happened on the way.

    Also where the draft can hold but a part of it.

    Rejection returns another sample (its law is in test_exact_law); here every token must at
    least be one the target can say, and the referee must be content.
    """
    eos, strings = end
    stop = StopRules(
        limit=asked.max_new_tokens, eos=eos, strings=strings, text=Detokenizer(spelled)
    )
    pair = similar(VOCAB, seed=asked.seed, share=share)

    network = decode(asked, pair, stop, script, reach)

    if asked.effective_verifier is not VerifierName.REJECTION:
        alone = autoregressive(pair.target, honest(asked, CounterCoins(asked.seed)), stop)
        assert tuple(network.schedule.committed) == alone


@settings(max_examples=150)
@given(asked=requests(), script=scripts)
def test_what_the_target_cannot_say_is_never_said(asked: Settings, script: Script) -> None:
    """The draft says nothing but what is impossible, and still only possible tokens leave."""
    model = table(VOCAB, seed=1)
    pair = Pair(target=only(model, [0, 1]), draft=only(model, [2, 3]))
    stop = StopRules(limit=asked.max_new_tokens)

    network = decode(asked, pair, stop, script)

    assert set(network.schedule.committed) <= {0, 1}
    assert network.schedule.finish_reason is FinishReason.LENGTH
    assert network.schedule.counts.kept == 0


def test_a_held_row_is_given_up_with_its_window() -> None:
    """The draft dies while the target holds a row for its window; the verdict comes twice.

    The second copy must not answer the new pass, which stands on the same tokens: it has another
    number.
    """
    asked = pearl(2)
    schedule = Settings(
        schedule=asked.schedule,
        gamma=2,
        verifier=VerifierName.REJECTION,
        sampling=Sampling(temperature=1.0),
    ).start(StopRules(limit=9))
    held = Judged(job=1, epoch=0, base=0, judged=0, kept=0, token=None)
    first = schedule.commands()
    schedule.receive(DeviceLost(device=DRAFT))
    schedule.receive(held)
    again = schedule.commands()
    schedule.receive(held)

    assert first[0] == Judge(job=1, epoch=0, base=0, pending=Drafted(), hold=True)
    assert again == (Judge(job=2, epoch=1, base=0, pending=Drafted(), hold=False),)
    assert schedule.commands() == ()
    assert schedule.counts.rounds == 1


def test_without_a_draft_decoding_is_autoregressive_and_with_it_parallel_again() -> None:
    """Both changes take at most one round."""
    schedule = pearl(3).start(StopRules(limit=99))
    schedule.commands()
    schedule.receive(DeviceLost(device=DRAFT))
    schedule.receive(Judged(job=1, epoch=0, base=0, judged=0, kept=0, token=1))
    alone = schedule.commands()
    schedule.receive(DeviceBack(device=DRAFT))
    schedule.receive(Judged(job=2, epoch=0, base=1, judged=0, kept=0, token=1))
    together = schedule.commands()

    assert [type(command) for command in alone] == [Judge]
    assert [type(command) for command in together] == [Judge, Propose]
    assert schedule.counts.draft_losses == 1
    assert schedule.counts.tokens_without_draft == 1


def test_a_lost_target_is_asked_again_when_it_is_back() -> None:
    """The very same job: a device that remembers nothing needs nothing else."""
    schedule = pearl(3).start(StopRules(limit=99))
    judge, _ = schedule.commands()
    schedule.receive(DeviceLost(device=TARGET))
    meanwhile = schedule.commands()
    schedule.receive(DeviceBack(device=TARGET))

    assert meanwhile == ()
    assert schedule.commands() == (judge,)
    assert schedule.counts.target_losses == 1
