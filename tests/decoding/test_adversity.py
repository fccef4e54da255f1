"""Losses, copies, delays and deaths at any moment change nothing but the time it takes.

`tests.decoding.network.Network` is the referee: it checks every command, every answer and every
state on the way. Here Hypothesis looks for a script it would object to.
"""

from __future__ import annotations

from hypothesis import given, settings

from pearl.decoding.messages import (
    DRAFT,
    TARGET,
    DeviceBack,
    DeviceLost,
    Drafted,
    Judge,
    Judged,
    Propose,
)
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.stopping import FinishReason, StopRules
from tests.decoding.adversity import (
    VOCAB,
    Trouble,
    check_text,
    decode,
    requests,
    scripts,
    troubles,
)
from tests.decoding.network import Script
from tests.decoding.requests import pearl
from tests.decoding.toys import Pair, only, table


@settings(max_examples=600)
@given(asked=requests(), trouble=troubles())
def test_no_network_changes_what_is_said(asked: Settings, trouble: Trouble) -> None:
    """Greedy and coupled: the text is that of the target alone, whatever happened on the way.

    Also where the draft can hold but a part of it.

    Rejection returns another sample (its law is in test_exact_law); here every token must at
    least be one the target can say, and the referee must be content.
    """
    check_text(asked, trouble)


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
        verifier="rejection",
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
