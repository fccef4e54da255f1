"""A schedule, a policy and a verifier are each added by one entry of a table, and nothing else.

What is added here goes through what every other one goes through: all outcomes of small requests,
hostile networks, the event simulation and its twin, the search for the best one, and the command
line.
"""

from __future__ import annotations

import json
from typing import Any, Final, final

import numpy as np
import pytest
from hypothesis import given, settings

from pearl.__main__ import run as pearl
from pearl.decoding.coins import Array, CounterCoins
from pearl.decoding.kinds import SCHEDULES, Numbers, ScheduleKind
from pearl.decoding.measured import Measurements
from pearl.decoding.messages import Drafted, Judged, Proposed
from pearl.decoding.policies import POLICIES, Gamma, PolicyKind
from pearl.decoding.sampling import Sampling
from pearl.decoding.settings import Settings
from pearl.decoding.verification import VERIFIERS, Greedy, Verdict, VerifierKind
from pearl.simulator import answers, twin
from pearl.simulator.acceptance import Independent, Replay
from pearl.simulator.optimise import advise
from pearl.simulator.sweep import Sweep
from pearl.simulator.sweep import run as swept
from pearl.simulator.twin import PairTimes, Scheme
from pearl.simulator.workload import Fixed, Workload
from pearl.simulator.world import Pair, Scenario
from tests.decoding.adversity import Trouble, check_text, requests, troubles
from tests.decoding.enumeration import Arrival, Case, check_output
from tests.decoding.requests import SAMPLING_VERIFIERS, request, requests_of
from tests.decoding.toys import similar

WARM: Final = Sampling(temperature=1.0)
TEXTS: Final = ("1101111101011111111100111110", "0", "1" * 23, "0111011")


def outcomes_are_right(asked: Settings, verifier: str, sampling: Sampling) -> None:
    """All of them, whatever comes first."""
    case = request(asked, verifier, sampling, 3)
    for arrival in Arrival:
        check_output(Case(settings=case, pair=similar(2, seed=2), arrival=arrival))


def networks_change_nothing(
    schedules: list[str] | None = None,
    gammas: list[Gamma] | None = None,
    verifiers: list[str] | None = None,
) -> None:
    @settings(max_examples=100)
    @given(asked=requests(schedules, gammas, verifiers), trouble=troubles())
    def search(asked: Settings, trouble: Trouble) -> None:
        check_text(asked, trouble)

    search()


def simulated(asked: Settings, text: str) -> Any:
    """What the event simulation makes of a text."""
    scenario = Scenario(
        settings=asked,
        pair=Pair.of(64),
        acceptance=Replay((text,)),
        workload=Workload(output=Fixed(len(text))),
    )
    return answers.run(scenario).served[0].metrics


# -- a schedule ------------------------------------------------------------------------------------


def _before_and_beside(gamma: Numbers, _: Numbers) -> tuple[Numbers, Numbers]:
    return gamma, gamma + 1


EARLY: Final = ScheduleKind(
    title="EARLY",
    summary="a window before the first pass, and a longer one beside every pass",
    numbers=_before_and_beside,
    settings=frozenset({"strict"}),
)


@pytest.fixture
def _early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULES, "early", EARLY)


@pytest.mark.usefixtures("_early")
@pytest.mark.parametrize("verifier", SAMPLING_VERIFIERS)
def test_a_new_schedule_is_lossless(verifier: str) -> None:
    """With every window, fixed and automatic."""
    for asked in requests_of("early").values():
        outcomes_are_right(asked, verifier, WARM)


@pytest.mark.usefixtures("_early")
def test_a_new_schedule_stands_a_hostile_network() -> None:
    networks_change_nothing(schedules=["early"])


@pytest.mark.usefixtures("_early")
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("gamma", [1, 2, 5])
def test_a_new_schedule_is_simulated_and_reckoned_with_alike(gamma: int, text: str) -> None:
    asked = Settings(schedule="early", gamma=gamma, strict=True)
    metrics = simulated(asked, text)
    (runs,) = Replay((text,)).runs()
    made = twin.decode(runs, Scheme("early", gamma), PairTimes(Pair.of(64))).rounds

    assert made.tokens.sum() == len(text)
    assert made.passes.sum() == metrics.target_passes
    assert made.kept.sum() == metrics.kept


@pytest.mark.usefixtures("_early")
def test_a_new_schedule_is_swept_and_advised() -> None:
    sweep = Sweep(alphas=(0.8,), speed_ratios=(5.0,), runs=0)
    points = [row.point for row in swept(sweep)]
    found = next(point for point in points if point.schedule == "early")
    advised = advise(Independent(0.8), PairTimes(Pair.of(5))).tunings["early"].choice

    assert [point.schedule for point in points] == list(SCHEDULES)
    assert found.gamma == advised.gamma
    assert float(found.tokens_per_s) == pytest.approx(advised.tokens_per_s)


@pytest.mark.usefixtures("_early")
def test_a_new_schedule_is_a_choice_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert pearl(["generate", "--help"]) == 0
    assert "|early]" in capsys.readouterr().out
    assert (
        pearl(["simulate", "--schedule", "early", "--gamma", "3", "--tokens", "90", "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["schedule"] == "early"
    assert pearl(["sweep", "--schedules", "ar,early", "--speed-ratio", "5"]) == 0
    assert "\nearly,0.8,5.0," in capsys.readouterr().out
    assert pearl(["optimise", "--speed-ratio", "5"]) == 0
    assert "EARLY" in capsys.readouterr().out


# -- a policy --------------------------------------------------------------------------------------


@final
class Alternating:
    """Windows of 2 and of 5, in turns."""

    def __init__(
        self, kind: ScheduleKind, *, head_start: int, barrier: bool, measured: Measurements | None
    ) -> None:
        del barrier, measured
        self._choices: list[tuple[int, int]] = [kind.numbers(gamma, head_start) for gamma in (2, 5)]
        self._windows = 0

    @property
    def before(self) -> int:
        return self._choices[self._windows % 2][0]

    @property
    def beside(self) -> int:
        return self._choices[self._windows % 2][1]

    @property
    def drafts(self) -> bool:
        return True

    @property
    def alone_s(self) -> None:
        return None

    def observe_window(self, answer: Proposed) -> None:
        del answer
        self._windows += 1

    def observe_pass(self, answer: Judged) -> None: ...

    def observe_comparison(self, *, kept: int, rejected: bool) -> None: ...


@pytest.fixture
def _alternating(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PolicyKind(start=Alternating, widest=5)
    monkeypatch.setitem(POLICIES, "alternating", entry)


@pytest.mark.usefixtures("_alternating")
@pytest.mark.parametrize("verifier", SAMPLING_VERIFIERS)
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if SCHEDULES[name].drafts])
def test_a_new_policy_is_lossless(schedule: str, verifier: str) -> None:
    outcomes_are_right(Settings(schedule=schedule, gamma="alternating"), verifier, WARM)


@pytest.mark.usefixtures("_alternating")
def test_a_new_policy_stands_a_hostile_network() -> None:
    networks_change_nothing(gammas=["alternating"])


@pytest.mark.usefixtures("_alternating")
def test_a_new_policy_is_simulated() -> None:
    """A draft that is always right: windows of 2 and 5 are judged with a bonus token each."""
    metrics = simulated(Settings(schedule="sd", gamma="alternating"), "1" * 45)

    assert metrics.target_passes == 2 * 45 / (3 + 6)


@pytest.mark.usefixtures("_alternating")
def test_a_new_policy_is_a_gamma_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert pearl(["simulate", "--gamma", "alternating", "--tokens", "90", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gamma"] == "alternating"


@pytest.mark.usefixtures("_alternating")
def test_a_new_policy_is_no_window_of_a_sweep_unless_it_ends_up_with_the_best(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert pearl(["sweep", "--gamma", "alternating"]) == 2
    assert "must be whole numbers, or auto" in capsys.readouterr().err


# -- a verifier ------------------------------------------------------------------------------------


@final
class LastOfEquals:
    """Greedy, but of equally likely tokens the last."""

    def draft(self, logits: Array, position: int) -> Drafted:
        mirrored = Greedy().draft(logits[:, ::-1], position)
        return Drafted(tokens=_mirror(mirrored.tokens, logits))

    def judge(self, logits: Array, drafted: Drafted, position: int, *, hold: bool) -> Verdict:
        mirrored = Drafted(tokens=_mirror(drafted.tokens, logits))
        found = Greedy().judge(logits[:, ::-1], mirrored, position, hold=hold)
        assert found.token is not None
        (token,) = _mirror((found.token,), logits)
        return Verdict(kept=found.kept, token=token)


def _mirror(tokens: tuple[int, ...], logits: Array) -> tuple[int, ...]:
    return tuple(logits.shape[-1] - 1 - token for token in tokens)


@pytest.fixture
def _last(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = VerifierKind(make=lambda _sampling, _coins: LastOfEquals(), samples=False)
    monkeypatch.setitem(VERIFIERS, "last", entry)


@pytest.mark.usefixtures("_last")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_new_verifier_is_lossless(schedule: str) -> None:
    for asked in requests_of(schedule).values():
        outcomes_are_right(asked, "last", Sampling())


@pytest.mark.usefixtures("_last")
def test_a_new_verifier_stands_a_hostile_network() -> None:
    networks_change_nothing(verifiers=["last"])


@pytest.mark.usefixtures("_last")
def test_a_new_verifier_breaks_ties_in_its_own_way() -> None:
    """It is the one that runs, and not the greedy one under its name."""
    asked = Settings(verifier="last")
    verifier = asked.verifier_kind.make(asked.sampling, CounterCoins(1))

    assert asked.effective_verifier == "last"
    assert verifier.draft(np.array([[1.0, 3.0, 3.0]]), 0).tokens == (2,)


@pytest.mark.usefixtures("_last")
def test_a_new_verifier_is_a_choice_of_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert pearl(["generate", "--help"]) == 0
    assert "|last]" in capsys.readouterr().out
    assert pearl(["generate", "x", "--verifier", "last", "--temperature", "1"]) == 2
    assert "0 with the last verifier" in capsys.readouterr().err
