"""The two hosts over toy runners: batching, rollback, held rows, revocation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pearl.actors.hosts import Drafting, Host, draft_host, target_host
from pearl.actors.wire import Alive, Close, JobDone, Open, Probe
from pearl.decoding.messages import (
    Cancel,
    Drafted,
    Foresight,
    Judge,
    Judged,
    Order,
    Propose,
    Proposed,
    TokenId,
)
from pearl.decoding.sampling import Sampling
from pearl.decoding.turns import OVERTAKES, PIECE, SHORT
from pearl.decoding.verification import VERIFIERS
from tests.actors.toys import ToyRunner, alone
from tests.decoding.toys import Logits, Prefix, table

VOCAB: Final = 8
MODEL: Final = table(VOCAB, seed=1)
PROMPT: Final[Prefix] = (1, 2, 3)
TEXT: Final = alone(MODEL, PROMPT, 12)
"""What the model says after the prompt."""


def _open(host: Host, request: int = 1, *, verifier: str = "greedy") -> None:
    temperature = 0.0 if verifier == "greedy" else 1.0
    host.take(
        Open(
            request=request,
            prompt=PROMPT,
            capacity=len(PROMPT) + 16,
            verifier=verifier,
            sampling=Sampling(temperature=temperature),
            seed=request,
        )
    )


def _ask(
    host: Host, command: Propose | Judge, request: int = 1, text: Sequence[TokenId] = TEXT
) -> list[JobDone]:
    """Hand over a job, with all the committed tokens it stands on."""
    fresh = tuple(text[: command.base])
    ended = host.take(Order(request=request, start=0, fresh=fresh, command=command))
    return [answer for answer in ended if isinstance(answer, JobDone)]


def _turn(host: Host) -> list[JobDone]:
    """A turn in which nothing goes wrong."""
    said = host.turn()
    answers = [each for each in said if isinstance(each, JobDone)]
    assert len(answers) == len(said)
    return answers


def _run(host: Host) -> list[JobDone]:
    answers = []
    while host.busy:
        answers += _turn(host)
    return answers


def _propose(base: int, count: int, pending: Prefix = (), epoch: int = 0) -> Propose:
    return Propose(job=1, epoch=epoch, base=base, pending=pending, count=count)


def _judge(base: int, pending: Prefix = (), epoch: int = 0, job: int = 1) -> Judge:
    return Judge(job=job, epoch=epoch, base=base, pending=Drafted(tokens=pending))


def _written(answers: Sequence[JobDone]) -> dict[int, tuple[TokenId, ...]]:
    return {a.request: a.event.drafted.tokens for a in answers if isinstance(a.event, Proposed)}


def _verdicts(answers: Sequence[JobDone]) -> dict[int, tuple[int, TokenId | None]]:
    return {
        a.request: (a.event.kept, a.event.token) for a in answers if isinstance(a.event, Judged)
    }


# -- the draft -------------------------------------------------------------------------------------


def test_the_draft_writes_what_its_model_says() -> None:
    host = draft_host(ToyRunner(MODEL))
    _open(host)
    _ask(host, _propose(base=2, count=3, pending=TEXT[2:4]))

    answers = _run(host)

    assert _written(answers) == {1: TEXT[4:7]}


def test_all_open_windows_share_each_turn_of_the_draft() -> None:
    """Continuous batching: a request that comes late joins the next forward."""
    runner = ToyRunner(MODEL)
    host = draft_host(runner)
    for request in (1, 2, 3):
        _open(host, request)
    _ask(host, _propose(base=0, count=3), request=1)
    _ask(host, _propose(base=1, count=2), request=2)
    _turn(host)
    _ask(host, _propose(base=2, count=2), request=3)

    answers = _run(host)

    assert [len(feeds) for feeds in runner.forwards] == [2, 3, 2]
    assert _written(answers) == {1: TEXT[0:3], 2: TEXT[1:3], 3: TEXT[2:4]}


def test_the_draft_reads_only_what_it_has_not_read() -> None:
    """The last token written was never read, so going on costs one token a step."""
    runner = ToyRunner(MODEL)
    host = draft_host(runner)
    _open(host)
    _ask(host, _propose(base=0, count=3))
    _run(host)
    _ask(host, _propose(base=0, count=2, pending=TEXT[0:3]))
    _run(host)

    assert runner.fed == [len(PROMPT), 1, 1, 1, 1]


def test_a_rollback_of_the_draft_reads_only_what_differs() -> None:
    """Two of three written tokens stood: the replacement is all there is to read."""
    runner = ToyRunner(MODEL)
    host = draft_host(runner)
    _open(host)
    _ask(host, _propose(base=0, count=4))
    _run(host)
    other = (TEXT[2] + 1) % VOCAB
    committed = (*TEXT[:2], other)
    _ask(host, _propose(base=3, count=2, epoch=1), text=committed)

    answers = _run(host)

    assert runner.fed[4:] == [1, 1]
    assert _written(answers) == {1: alone(MODEL, PROMPT + committed, 2)}


def test_a_revoked_window_is_answered_with_what_was_written() -> None:
    """Work in vain is work, and is counted."""
    host = draft_host(ToyRunner(MODEL))
    _open(host)
    _ask(host, _propose(base=0, count=5))
    _turn(host)
    _turn(host)

    answers = [
        a for a in host.take(Order(request=1, command=Cancel(epoch=1))) if isinstance(a, JobDone)
    ]

    assert _written(answers) == {1: TEXT[:2]}
    assert not host.busy


def test_a_window_of_which_nothing_was_written_is_revoked_in_silence() -> None:
    host = draft_host(ToyRunner(MODEL))
    _open(host)
    _ask(host, _propose(base=0, count=5))

    assert host.take(Order(request=1, command=Cancel(epoch=1))) == []
    assert not host.busy


def test_a_revocation_does_not_touch_a_window_of_its_own_epoch() -> None:
    """It may arrive after the job that replaced the revoked one."""
    host = draft_host(ToyRunner(MODEL))
    _open(host)
    _ask(host, _propose(base=0, count=2, epoch=1))

    assert host.take(Order(request=1, command=Cancel(epoch=1))) == []
    assert _written(_run(host)) == {1: TEXT[:2]}


def test_a_newer_job_puts_an_end_to_the_older_window() -> None:
    host = draft_host(ToyRunner(MODEL))
    _open(host)
    _ask(host, _propose(base=0, count=5))
    _turn(host)

    ended = _ask(host, _propose(base=1, count=2, epoch=1))

    assert _written(ended) == {1: TEXT[:1]}
    assert _written(_run(host)) == {1: TEXT[1:3]}


def test_the_draft_sends_the_laws_it_drew_from_where_they_are_needed() -> None:
    host = draft_host(ToyRunner(MODEL))
    _open(host, verifier="rejection")
    _ask(host, _propose(base=0, count=2))

    (answer,) = _run(host)

    assert isinstance(answer.event, Proposed)
    first = np.frombuffer(answer.event.drafted.laws[0], np.float32)
    np.testing.assert_allclose(first, _softmax(MODEL(PROMPT)), rtol=1e-5)
    assert len(answer.event.drafted.laws) == 2


# -- the target ------------------------------------------------------------------------------------


def test_all_waiting_windows_share_one_pass_of_the_target() -> None:
    """Windows of different length, in one ragged forward."""
    runner = ToyRunner(MODEL)
    host = target_host(runner)
    for request, job in {1: _judge(0), 2: _judge(1, TEXT[1:4]), 3: _judge(4, TEXT[4:5])}.items():
        _open(host, request)
        _ask(host, job, request)

    answers = _turn(host)

    assert len(runner.forwards) == 1
    assert _verdicts(answers) == {1: (0, TEXT[0]), 2: (3, TEXT[4]), 3: (1, TEXT[5])}


def test_the_target_keeps_tokens_up_to_the_first_that_it_would_not_say() -> None:
    host = target_host(ToyRunner(MODEL))
    _open(host)
    wrong = (TEXT[1] + 1) % VOCAB
    _ask(host, _judge(0, (TEXT[0], wrong, TEXT[2])))

    assert _verdicts(_run(host)) == {1: (1, TEXT[1])}


def test_a_pass_of_the_target_reads_the_window_and_the_token_before_it() -> None:
    """That token was the target's own choice: nothing has read it yet."""
    runner = ToyRunner(MODEL)
    host = target_host(runner)
    _open(host)
    _ask(host, _judge(0, TEXT[:3]))
    _run(host)
    _ask(host, _judge(4, TEXT[4:6]))
    _run(host)

    assert runner.fed == [len(PROMPT) + 3, 1 + 2]


def test_a_newer_job_replaces_the_one_that_waits() -> None:
    runner = ToyRunner(MODEL)
    host = target_host(runner)
    _open(host)
    _ask(host, _judge(0, TEXT[:3]))
    _ask(host, _judge(1, epoch=1))

    answers = _run(host)

    assert _verdicts(answers) == {1: (0, TEXT[1])}
    assert len(runner.forwards) == 1


# -- the row that rejection leaves open ------------------------------------------------------------


def test_a_window_kept_whole_leaves_its_last_row_open() -> None:
    host = target_host(ToyRunner(_sure))
    _open(host, verifier="rejection")
    _ask(host, _hold(0, (1, 1)))

    assert _verdicts(_run(host)) == {1: (2, None)}


def test_rejecting_the_first_token_against_a_held_row_costs_no_pass() -> None:
    runner = ToyRunner(_sure)
    host = target_host(runner)
    _open(host, verifier="rejection")
    _ask(host, _hold(0, (1, 1)))
    _run(host)
    _ask(host, _hold(2, (5, 1)), text=(1, 1))

    (answer,) = _run(host)

    assert isinstance(answer.event, Judged)
    assert (answer.event.kept, answer.event.token, answer.event.passes) == (0, 1, 0)
    assert len(runner.forwards) == 1


def test_a_first_token_kept_by_the_held_row_is_judged_on_with_one_row_less() -> None:
    runner = ToyRunner(_sure)
    host = target_host(runner)
    _open(host, verifier="rejection")
    _ask(host, _hold(0, (1, 1)))
    _run(host)
    _ask(host, _hold(2, (1, 5)), text=(1, 1))

    (answer,) = _run(host)

    assert isinstance(answer.event, Judged)
    assert (answer.event.kept, answer.event.token, answer.event.passes) == (1, 1, 1)
    assert [feed.logits for feed in runner.forwards[1]] == [2]
    assert runner.fed == [len(PROMPT) + 2, 2]


def test_a_held_row_alone_chooses_when_no_window_came() -> None:
    """The draft was lost: the row that was kept for its window gives the next token."""
    runner = ToyRunner(_sure)
    host = target_host(runner)
    _open(host, verifier="rejection")
    _ask(host, _hold(0, (1,)))
    _run(host)
    _ask(host, _judge(1, epoch=1), text=(1,))

    assert _verdicts(_run(host)) == {1: (0, 1)}
    assert len(runner.forwards) == 1


def test_a_held_row_is_lost_with_the_device_and_computed_again() -> None:
    runner = ToyRunner(_sure)
    host = target_host(runner)
    _open(host, verifier="rejection")
    _ask(host, _hold(0, (1, 1)))
    _run(host)
    _open(host, verifier="rejection")
    _ask(host, _hold(2, (5, 1)), text=(1, 1))

    (answer,) = _run(host)

    assert isinstance(answer.event, Judged)
    assert (answer.event.kept, answer.event.token, answer.event.passes) == (0, 1, 1)


def test_a_held_row_of_another_position_is_not_used() -> None:
    runner = ToyRunner(_sure)
    host = target_host(runner)
    _open(host, verifier="rejection")
    _ask(host, _hold(0, (1, 1, 1)))
    _run(host)
    _ask(host, _hold(1, (5,), epoch=1), text=(1,))

    assert _verdicts(_run(host)) == {1: (0, 1)}
    assert len(runner.forwards) == 2


# -- both ------------------------------------------------------------------------------------------

JOBS = st.lists(
    st.builds(
        lambda base, count, pending: (base, count, tuple(pending)),
        st.integers(0, 8),
        st.integers(1, 4),
        st.lists(st.integers(0, VOCAB - 1), max_size=4),
    ),
    min_size=1,
    max_size=8,
)


@given(jobs=JOBS, verifier=st.sampled_from(["greedy", "coupled"]))
def test_the_target_answers_each_job_as_if_it_were_the_first(
    jobs: list[tuple[int, int, Prefix]], verifier: str
) -> None:
    """Doubled, late, after others, after a restart: a job says all that it stands on."""
    host = target_host(ToyRunner(MODEL))
    _open(host, verifier=verifier)
    for base, _, pending in jobs:
        _ask(host, _judge(base, pending))
        fresh = target_host(ToyRunner(MODEL))
        _open(fresh, verifier=verifier)
        _ask(fresh, _judge(base, pending))

        assert _verdicts(_run(host)) == _verdicts(_run(fresh))


@given(jobs=JOBS, verifier=st.sampled_from(sorted(VERIFIERS)))
def test_the_draft_answers_each_job_as_if_it_were_the_first(
    jobs: list[tuple[int, int, Prefix]], verifier: str
) -> None:
    host = draft_host(ToyRunner(MODEL))
    _open(host, verifier=verifier)
    for base, count, pending in jobs:
        _ask(host, _propose(base, count, pending))
        fresh = draft_host(ToyRunner(MODEL))
        _open(fresh, verifier=verifier)
        _ask(fresh, _propose(base, count, pending))

        assert _written(_run(host)) == _written(_run(fresh))


def test_committed_tokens_are_learnt_once_however_often_they_are_sent() -> None:
    host = target_host(ToyRunner(MODEL))
    _open(host)
    host.take(Order(request=1, start=0, fresh=TEXT[:4], command=_judge(4)))
    host.take(Order(request=1, start=0, fresh=TEXT[:2], command=_judge(2)))
    host.take(Order(request=1, start=2, fresh=TEXT[2:6], command=_judge(6)))

    assert _verdicts(_run(host)) == {1: (0, TEXT[6])}


def test_requests_that_are_not_open_are_ignored() -> None:
    """They were closed, and their last jobs were still under way."""
    draft, target = draft_host(ToyRunner(MODEL)), target_host(ToyRunner(MODEL))

    assert _ask(draft, _propose(base=0, count=1)) == _ask(target, _judge(0)) == []
    for host in (draft, target):
        assert host.take(Close(request=1)) == []
        assert host.take(Order(request=1, command=Cancel(epoch=9))) == []
        assert not host.busy


def test_a_closed_request_gives_its_row_back_and_is_not_worked_for() -> None:
    for host, job, runner in _busy_hosts():
        _open(host)
        _ask(host, job)
        host.take(Close(request=1))

        assert runner.rows == 0
        assert not host.busy


def test_a_request_that_is_opened_again_holds_one_row() -> None:
    for host, job, runner in _busy_hosts():
        _open(host)
        _ask(host, job)
        _open(host)

        assert runner.rows == 1
        assert not host.busy


def test_a_probe_is_answered_at_once() -> None:
    for host, _, _ in _busy_hosts():
        assert host.take(Probe()) == [Alive()]


def _busy_hosts() -> list[tuple[Host, Propose | Judge, ToyRunner]]:
    draft, target = ToyRunner(MODEL), ToyRunner(MODEL)
    return [(draft_host(draft), _propose(0, 3), draft), (target_host(target), _judge(0), target)]


def _hold(base: int, tokens: Prefix, epoch: int = 0) -> Judge:
    """A window whose every token was drawn from a law that knew no other."""
    laws = tuple(np.eye(VOCAB, dtype=np.float32)[token].tobytes() for token in tokens)
    drafted = Drafted(tokens=tokens, laws=laws)
    return Judge(job=1, epoch=epoch, base=base, pending=drafted, hold=True)


def _sure(prefix: Prefix) -> Logits:
    """A target that says 1 whatever came before, and would never say anything else."""
    del prefix
    return np.where(np.arange(VOCAB) == 1, 0.0, -1e9)


def _softmax(logits: Logits) -> Logits:
    weights: Logits = np.exp(logits - logits.max())
    law: Logits = weights / weights.sum()
    return law


# -- going on before it is told --------------------------------------------------------------------


def _foresee(
    host: Host, job: Judge, *, restarts: bool = True, window: Prefix | None = None
) -> None:
    known = Foresight(job=job.job, restarts=restarts, window=window)
    host.take(Order(request=1, command=known))


def test_the_target_goes_on_with_a_window_that_it_was_told_of() -> None:
    """The command that comes then finds its job done, and is not judged once more."""
    runner = ToyRunner(MODEL)
    host = target_host(runner)
    _open(host)
    first, second = _judge(0, TEXT[0:2]), _judge(3, TEXT[3:5], job=2)
    _ask(host, first)
    _foresee(host, first, window=TEXT[2:5])

    answers = _turn(host) + _turn(host)
    _ask(host, second)

    assert [a.event.base for a in answers if isinstance(a.event, Judged)] == [0, 3]
    assert _verdicts(answers[1:]) == {1: (2, TEXT[5])}
    assert not host.busy


def test_a_window_that_comes_after_the_verdict_lets_it_go_on_too() -> None:
    host = target_host(ToyRunner(MODEL))
    _open(host)
    job = _judge(0)
    _ask(host, job)
    _run(host)

    _foresee(host, job, window=TEXT[0:2])

    assert _verdicts(_turn(host)) == {1: (1, TEXT[2])}


def test_after_a_refusal_the_target_goes_on_with_nothing() -> None:
    host = target_host(ToyRunner(MODEL))
    _open(host)
    wrong = (TEXT[1] + 1) % VOCAB
    job = _judge(0, (TEXT[0], wrong))
    _ask(host, job)
    _foresee(host, job)

    answers = _turn(host) + _turn(host)

    assert [a.event.epoch for a in answers if isinstance(a.event, Judged)] == [0, 1]
    assert _verdicts(answers[1:]) == {1: (0, TEXT[2])}
    assert not host.busy


def test_another_command_replaces_what_was_begun_in_vain() -> None:
    """The schedule has the last word: its plan may have changed."""
    host = target_host(ToyRunner(MODEL))
    _open(host)
    job, other = _judge(0), _judge(1, TEXT[1:4], job=2)
    _ask(host, job)
    _foresee(host, job, window=())
    _turn(host)

    _ask(host, other)

    assert _verdicts(_turn(host)) == {1: (3, TEXT[4])}
    assert not host.busy


def test_the_target_does_not_go_on_beyond_the_end_of_a_text_or_its_room() -> None:
    """A pass in vain would keep the next request waiting."""
    for eos, capacity in (((TEXT[0],), 16), ((), 1)):
        host = target_host(ToyRunner(MODEL))
        host.take(
            Open(
                request=1,
                prompt=PROMPT,
                capacity=len(PROMPT) + capacity,
                eos=eos,
                verifier="greedy",
                sampling=Sampling(),
                seed=1,
            )
        )
        job = _judge(0)
        _ask(host, job)
        _foresee(host, job, window=())

        _turn(host)

        assert not host.busy


def test_a_verdict_says_how_much_its_pass_read_for_all() -> None:
    """Or a plan could not tell its own tokens from those of a crowd."""
    host = target_host(ToyRunner(MODEL))
    for request in (1, 2):
        _open(host, request)
        _ask(host, _judge(0, TEXT[0:2]), request=request)

    answers = _turn(host)

    read = 2 * (len(PROMPT) + 2)
    assert [a.event.read for a in answers if isinstance(a.event, Judged)] == [read, read]


# -- long prompts ----------------------------------------------------------------------------------


def _long(host: Host, request: int, tokens: int) -> Prefix:
    """A request with a prompt of so many tokens, and its first job."""
    prompt = tuple((request + i) % VOCAB for i in range(tokens))
    host.take(
        Open(
            request=request,
            prompt=prompt,
            capacity=tokens + 16,
            verifier="greedy",
            sampling=Sampling(),
            seed=0,
        )
    )
    draft = isinstance(host._work, Drafting)
    command = _propose(base=0, count=2) if draft else _judge(base=0)
    host.take(Order(request=request, start=0, fresh=(), command=command))
    return prompt


@pytest.mark.parametrize("make", [draft_host, target_host])
def test_a_long_prompt_is_read_in_pieces(make: Callable[[ToyRunner], Host]) -> None:
    """And what is said after it is what it would be said after reading it whole."""
    runner = ToyRunner(MODEL)
    host = make(runner)
    prompt = _long(host, 1, 3 * PIECE - 100)

    answers = _run(host)

    assert runner.fed[:3] == [PIECE, PIECE, PIECE - 100]
    said = _written(answers) if make is draft_host else _verdicts(answers)
    count = 2 if make is draft_host else 1
    whole = alone(MODEL, prompt, count)
    assert said == ({1: whole} if make is draft_host else {1: (0, whole[0])})


@pytest.mark.parametrize("make", [draft_host, target_host])
def test_thirty_two_long_prompts_do_not_keep_a_short_one_waiting(
    make: Callable[[ToyRunner], Host],
) -> None:
    """It is answered as soon as if it were alone; no turn reads more than a piece beside it."""
    runner = ToyRunner(MODEL)
    host = make(runner)
    for request in range(32):
        _long(host, request, 4 * PIECE)
    _turn(host)
    _long(host, 99, 40)
    answers = [answer for _ in range(2) for answer in _turn(host)]

    assert 99 in {answer.request for answer in answers}
    assert max(runner.fed) <= PIECE + SHORT


def test_every_prompt_has_its_turn() -> None:
    """Also where shorter ones keep coming, one in each turn, and each as long as a turn reads."""
    host = target_host(ToyRunner(MODEL))
    _long(host, 0, 4 * PIECE)
    answered: set[int] = set()
    for later in range(1, 200):
        _long(host, later, PIECE)
        answered |= {answer.request for answer in _turn(host)}
        if 0 in answered:
            break

    assert 0 in answered
    assert later < 4 * PIECE / OVERTAKES + 10


def test_a_job_that_is_replaced_while_its_prompt_is_read_is_done_in_its_place() -> None:
    """What was read stays read."""
    runner = ToyRunner(MODEL)
    host = target_host(runner)
    prompt = _long(host, 1, 2 * PIECE)
    _turn(host)
    text = alone(MODEL, prompt, 3)
    host.take(Order(request=1, start=0, fresh=text[:2], command=_judge(base=2, epoch=1)))

    answers = _run(host)

    assert runner.fed == [PIECE, PIECE, 2]
    assert _verdicts(answers) == {1: (0, text[2])}


def test_a_pass_is_alone_where_every_job_in_it_is() -> None:
    """One request whose draft works is enough: its core is taken."""
    said: list[bool] = []
    host = target_host(ToyRunner(MODEL), alone=said.append)
    for request in (1, 2):
        _open(host, request)

    for flags in ((True, True), (True, False)):
        for request, flag in enumerate(flags, 1):
            job = len(said) + 1
            _ask(host, Judge(job=job, epoch=0, base=0, alone=flag), request)
        host.turn()

    assert said == [True, False]


def test_a_job_that_was_begun_before_its_command_is_not_done_again_for_being_alone_or_not() -> None:
    """Whether a draft works beside it changes nothing of what it says."""
    runner = ToyRunner(MODEL)
    host = target_host(runner)
    _open(host)
    _ask(host, Judge(job=1, epoch=0, base=0))
    host.take(Order(request=1, command=Foresight(job=1, restarts=True, window=())))
    host.turn()
    host.turn()
    passes = len(runner.forwards)

    _ask(host, Judge(job=2, epoch=0, base=1, alone=True))

    assert not host.busy or host.turn() == []
    assert len(runner.forwards) == passes
