"""The rule of a round, step by step: what is sent when, and what a verdict does."""

from __future__ import annotations

import msgspec
import pytest

from pearl.decoding.messages import (
    DEVICES,
    DRAFT,
    TARGET,
    Cancel,
    Command,
    Device,
    DeviceBack,
    DeviceLost,
    Drafted,
    Judge,
    Judged,
    Propose,
    Proposed,
    Role,
    TokenId,
)
from pearl.decoding.policies import FixedPolicy
from pearl.decoding.schedules import TwoModelSchedule
from pearl.decoding.stopping import StopRules
from tests.decoding.policies import AUTOREGRESSIVE, pearl, speculative
from tests.decoding.scripted import run


def start(
    plan: FixedPolicy, *, limit: int = 100, hold: bool = False, strict: bool = False
) -> TwoModelSchedule:
    return TwoModelSchedule(plan, StopRules(limit=limit), hold=hold, strict=strict)


def judge(epoch: int, base: int, *pending: TokenId, hold: bool = False) -> Judge:
    return Judge(job=0, epoch=epoch, base=base, pending=Drafted(tokens=pending), hold=hold)


def propose(epoch: int, base: int, *pending: TokenId, count: int) -> Propose:
    return Propose(job=0, epoch=epoch, base=base, pending=pending, count=count)


def proposed(epoch: int, start: int, *tokens: TokenId) -> Proposed:
    return Proposed(job=0, epoch=epoch, start=start, drafted=Drafted(tokens=tokens))


def judged(epoch: int, base: int, judged: int, kept: int, token: TokenId | None) -> Judged:
    return Judged(job=0, epoch=epoch, base=base, judged=judged, kept=kept, token=token)


def asked(schedule: TwoModelSchedule) -> tuple[Command, ...]:
    """Its commands, but for the numbers of the jobs."""
    return tuple(
        msgspec.structs.replace(command, job=0) if isinstance(command, Judge | Propose) else command
        for command in schedule.commands()
    )


def tell(schedule: TwoModelSchedule, answer: Proposed | Judged) -> tuple[TokenId, ...]:
    """The answer to the job that is open."""
    job = schedule._propose if isinstance(answer, Proposed) else schedule._judge
    number = 0 if job is None else job.job
    return schedule.receive(msgspec.structs.replace(answer, job=number))


@pytest.mark.parametrize(
    ("plan", "first"),
    [
        (AUTOREGRESSIVE, [judge(0, 0)]),
        (speculative(3), [propose(0, 0, count=3)]),
        (pearl(3), [judge(0, 0), propose(0, 0, count=3)]),
        (pearl(3, 2), [propose(0, 0, count=2)]),
    ],
    ids=["AR", "SD", "PEARL", "PEARL with a head start"],
)
def test_each_schedule_begins_in_its_own_way(plan: FixedPolicy, first: list[Command]) -> None:
    """The table at the top of `pearl.decoding.schedules`: two numbers make the difference."""
    assert list(asked(start(plan))) == first


def test_an_accepted_window_is_judged_while_the_next_is_written() -> None:
    """Pre-verify to post-verify: the target's token is the window's first, the rest is pending."""
    schedule = start(pearl(3))
    schedule.commands()
    tell(schedule, proposed(0, 0, 7, 8, 9))
    tokens = tell(schedule, judged(0, 0, 0, 0, 7))

    assert tokens == (7,)
    assert asked(schedule) == (judge(0, 1, 8, 9), propose(0, 1, 8, 9, count=3))


def test_a_window_that_begins_wrong_is_thrown_away() -> None:
    """Pre-verify stays pre-verify, in a new epoch, and the target's token is committed."""
    schedule = start(pearl(3))
    schedule.commands()
    tell(schedule, proposed(0, 0, 7, 8, 9))
    tokens = tell(schedule, judged(0, 0, 0, 0, 4))

    assert tokens == (4,)
    assert asked(schedule) == (judge(1, 1), propose(1, 1, count=3))


def test_a_verdict_leaves_before_its_window_is_in() -> None:
    """A token that stands is committed at once; the next job waits for the window."""
    schedule = start(pearl(3))
    schedule.commands()
    tokens = tell(schedule, judged(0, 0, 0, 0, 7))

    assert tokens == (7,)
    assert asked(schedule) == ()


def test_a_strict_round_ends_when_both_answers_are_in() -> None:
    """As in the paper: a barrier, also for what could be committed."""
    schedule = start(pearl(3), strict=True)
    schedule.commands()
    early = tell(schedule, judged(0, 0, 0, 0, 7))
    late = tell(schedule, proposed(0, 0, 7, 8, 9))

    assert (early, late) == ((), (7,))


def test_a_held_row_makes_the_whole_window_pending() -> None:
    """Rejection must see the window's first token before the target may choose there."""
    schedule = start(pearl(2), hold=True)
    first = asked(schedule)
    tell(schedule, judged(0, 0, 0, 0, None))
    tell(schedule, proposed(0, 0, 7, 8))

    assert first[0] == judge(0, 0, hold=True)
    assert asked(schedule) == (judge(0, 0, 7, 8, hold=True), propose(0, 0, 7, 8, count=2))


@pytest.mark.parametrize(
    ("eos", "kept", "token", "counted"),
    [
        (8, 3, 4, (2, 0)),
        (9, 3, 4, (3, 0)),
        (8, 2, 4, (2, 0)),
        (7, 0, 7, (0, 1)),
        (4, 2, 4, (2, 1)),
        (4, 3, 4, (3, 0)),
        (5, 3, 4, (3, 0)),
        (5, 1, 4, (1, 1)),
    ],
    ids=[
        "the end inside what was kept",
        "the end is the last token kept",
        "the refused token lies behind the end",
        "the token of the target ends it, at the first place",
        "the token of the target ends it, where it refuses",
        "the token of the target ends it, behind what was kept",
        "no end, all kept",
        "no end, one kept",
    ],
)
def test_figures_count_what_is_in_the_text(
    eos: TokenId, kept: int, token: TokenId, counted: tuple[int, int]
) -> None:
    """What was judged behind the end of the text agrees with nothing that anybody reads."""
    schedule = TwoModelSchedule(speculative(3), StopRules(limit=100, eos=frozenset({eos})))
    tell(schedule, proposed(0, 0, 7, 8, 9))
    tokens = tell(schedule, judged(0, 0, 3, kept, token))

    assert (schedule.counts.kept, schedule.counts.rejections) == counted
    assert schedule.counts.kept <= len(tokens)


def test_a_doomed_window_is_cancelled_while_it_is_written() -> None:
    """The verdict refuses a pending token, so what is written after it is in vain."""
    schedule = start(pearl(2))
    schedule.commands()
    tell(schedule, proposed(0, 0, 7, 8))
    tell(schedule, judged(0, 0, 0, 0, 7))
    schedule.commands()
    tell(schedule, judged(0, 1, 1, 0, 5))

    assert asked(schedule) == (Cancel(epoch=1), judge(1, 2), propose(1, 2, count=2))


def test_only_doomed_windows_are_cancelled() -> None:
    """Once for each pending token refused before its window is in, and never otherwise.

    A window that is refused by its own first token is complete by then; a strict round waits.
    """
    hurried = run(pearl(4), 0.7, passes=2000, verdict_first=True)

    assert hurried.cancels == hurried.doomed > 100
    assert run(pearl(4), 0.7, passes=2000).cancels == 0
    assert run(pearl(4), 0.7, passes=2000, strict=True, verdict_first=True).cancels == 0


def test_a_head_start_that_is_lost_is_not_waited_for() -> None:
    """The draft dies before the first pass: the target goes on by itself."""
    schedule = start(pearl(3, 2))
    schedule.commands()
    schedule.receive(DeviceLost(device=DRAFT))

    assert asked(schedule) == (judge(1, 0),)


@pytest.mark.parametrize("strict", [False, True], ids=["ordinary", "strict"])
def test_a_window_that_is_lost_is_not_waited_for(strict: bool) -> None:  # noqa: FBT001
    """The verdict is in and the draft dies: its token is committed, and the target goes on."""
    schedule = start(pearl(3), strict=strict)
    schedule.commands()
    first = tell(schedule, judged(0, 0, 0, 0, 7))
    second = schedule.receive(DeviceLost(device=DRAFT))

    assert first + second == (7,)
    (job,) = schedule.commands()
    assert isinstance(job, Judge)
    assert (job.base, len(job.pending)) == (1, 0)


def test_a_window_that_came_before_the_draft_died_is_used() -> None:
    """What was written is written; only what is still being written is lost."""
    schedule = start(pearl(3))
    schedule.commands()
    tell(schedule, proposed(0, 0, 7, 8, 9))
    schedule.receive(DeviceLost(device=DRAFT))
    tell(schedule, judged(0, 0, 0, 0, 7))

    assert asked(schedule) == (judge(0, 1, 8, 9),)


def test_a_verdict_that_took_no_pass_is_not_part_of_a_strict_round() -> None:
    """The held row belongs to the round before: in the paper nothing is written after it.

    To wait for the next window costs a whole window for each rejection at a first token, which
    are (1 - a) / (1 - a^g) of all: at a = .5 and g = c = 5 a run takes a third longer.
    """
    schedule = start(pearl(2), hold=True, strict=True)
    schedule.commands()
    tell(schedule, judged(0, 0, 0, 0, None))
    tell(schedule, proposed(0, 0, 7, 8))
    tokens = tell(schedule, Judged(job=0, epoch=0, base=0, judged=2, kept=0, token=5, passes=0))

    assert tokens == (5,)


def test_without_a_draft_no_row_is_held() -> None:
    """Nobody would ever test it."""
    schedule = start(pearl(3), hold=True)
    schedule.commands()
    schedule.receive(DeviceLost(device=DRAFT))
    tell(schedule, judged(0, 0, 0, 0, None))

    assert asked(schedule) == (judge(1, 0, hold=False),)


def test_a_dead_target_is_not_sent_new_jobs() -> None:
    """Its last answer may still arrive; the next job waits until it is back."""
    schedule = start(AUTOREGRESSIVE)
    schedule.commands()
    schedule.receive(DeviceLost(device=TARGET))
    tokens = tell(schedule, judged(0, 0, 0, 0, 7))
    meanwhile = schedule.commands()
    schedule.receive(DeviceBack(device=TARGET))

    assert tokens == (7,)
    assert meanwhile == ()
    assert asked(schedule) == (judge(0, 1),)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_loss_that_is_told_twice_counts_once(device: Device) -> None:
    schedule = start(pearl(3))
    schedule.receive(DeviceLost(device=device))
    schedule.receive(DeviceLost(device=device))

    assert schedule.counts.draft_losses + schedule.counts.target_losses == 1


def test_another_request_s_device_is_nobody_s_loss() -> None:
    """A schedule minds its own two devices."""
    schedule = start(pearl(3))
    commands = schedule.commands()
    schedule.receive(DeviceLost(device=Device(Role.DRAFT, 1)))
    schedule.receive(DeviceLost(device=Device(Role.TARGET, 1)))

    assert len(commands) == 2
    assert schedule.counts.draft_losses == schedule.counts.target_losses == 0


def test_its_jobs_are_for_its_own_devices() -> None:
    draft, target = Device(Role.DRAFT, 2), Device(Role.TARGET, 3)
    schedule = TwoModelSchedule(pearl(3), StopRules(limit=9), draft=draft, target=target)

    assert [command.device for command in schedule.commands()] == [target, draft]


@pytest.mark.parametrize("plan", [speculative(4), pearl(4), pearl(4, 2)], ids=["SD", "P", "P2"])
@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_window_may_be_shorter_than_asked(plan: FixedPolicy, written: int) -> None:
    """A rule of the draft has ended it: that is a whole answer, and nobody waits for the rest."""
    schedule = start(plan, limit=12)
    while schedule.finish_reason is None:
        for command in schedule.commands():
            if isinstance(command, Propose):
                tokens = tuple(range(command.start, command.start + min(written, command.count)))
                tell(schedule, proposed(command.epoch, command.start, *tokens))
            elif isinstance(command, Judge):
                count, last = len(command.pending), command.base + len(command.pending)
                tell(schedule, judged(command.epoch, command.base, count, count, last))

    assert list(schedule.committed) == list(range(12))
    assert schedule.counts.rejections == 0


def test_a_window_that_was_cut_off_is_not_taken() -> None:
    """It answers a job that was cancelled, or that is done again."""
    schedule = start(speculative(3))
    schedule.commands()
    cut = msgspec.structs.replace(proposed(0, 0, 7), complete=False)
    tell(schedule, cut)

    assert schedule.commands() == ()
    assert not schedule.awaits(msgspec.structs.replace(cut, job=1))


def test_a_verdict_on_other_tokens_is_no_answer_even_if_its_number_fits() -> None:
    """A target that went on by itself had begun what the policy has changed its mind about."""
    schedule = start(speculative(2))
    schedule.commands()
    tell(schedule, proposed(0, 0, 7, 8))
    own = msgspec.structs.replace(judged(0, 0, 0, 0, 5), job=1)

    assert asked(schedule) == (judge(0, 0, 7, 8),)
    assert not schedule.awaits(own)
    assert schedule.receive(own) == ()
    assert schedule.counts.rejections == 0


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("plan", [speculative(3), pearl(3), pearl(3, 2)], ids=["SD", "P", "P2"])
def test_nothing_is_written_that_the_limit_forbids(plan: FixedPolicy, limit: int) -> None:
    """The target gives the last token itself, so at most limit - 1 are ever written."""
    schedule = start(plan, limit=limit)
    counts = [job.count for job in schedule.commands() if isinstance(job, Propose)]

    assert sum(counts) <= limit - 1
    assert all(counts)


def test_after_the_end_nothing_matters() -> None:
    """A finished schedule takes any event and gives no more commands than its last cancel."""
    schedule = start(pearl(3), limit=2)
    schedule.commands()
    tell(schedule, judged(0, 0, 0, 0, 7))
    tell(schedule, proposed(0, 0, 7))
    schedule.commands()
    last = tell(schedule, judged(0, 1, 0, 0, 5))
    schedule.commands()
    schedule.receive(DeviceBack(device=TARGET))
    tell(schedule, judged(0, 1, 0, 0, 5))

    assert last == (5,)
    assert list(schedule.committed) == [7, 5]
    assert asked(schedule) == ()


@pytest.mark.parametrize("reach", [-1, 0, 1, 4, 7])
@pytest.mark.parametrize(
    "plan", [speculative(3), pearl(3), pearl(3, 2)], ids=["SD", "PEARL", "PEARL with a head start"]
)
def test_a_draft_is_asked_for_nothing_beyond_what_it_can_hold(
    plan: FixedPolicy, reach: int
) -> None:
    """There it rests, and the target ends the text alone; before, it writes as ever."""
    limit = 12
    schedule = TwoModelSchedule(plan, StopRules(limit=limit), reach=reach)
    ends = []
    while schedule.finish_reason is None:
        for command in schedule.commands():
            if isinstance(command, Propose):
                first = command.base + len(command.pending)
                ends.append(first + command.count)
                written = tuple(range(first, first + command.count))
                tell(schedule, proposed(command.epoch, first, *written))
            elif isinstance(command, Judge):
                count = len(command.pending)
                last = command.base + count
                tell(schedule, judged(command.epoch, command.base, count, count, last))

    assert list(schedule.committed) == list(range(limit))
    assert all(end <= reach for end in ends)
    assert bool(ends) == (reach > 0)
