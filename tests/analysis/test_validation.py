"""A run is held against theory: what holds, what does not and why, and what is violated."""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import pytest
from msgspec.structs import replace

from pearl.analysis.comparison import Claim, Comparison, Relation
from pearl.analysis.gap import PARTS_OF, Part, grouped
from pearl.analysis.traces import Request
from pearl.analysis.validation import BestWindow, Validation
from pearl.decoding.errors import MalformedTraceError
from pearl.decoding.estimates import Estimate
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.settings import Settings
from pearl.decoding.trace import Received, Record
from pearl.harness.systems import name_of
from pearl.harness.validation import validate
from pearl.simulator.acceptance import Acceptance, Bursts, Independent, Mixture, Positions
from pearl.simulator.answers import run
from pearl.simulator.costs import Affine
from pearl.simulator.links import Link, Network
from pearl.simulator.workload import ClosedLoop, Fixed, Workload
from pearl.simulator.world import Pair, Scenario
from tests.analysis.forms import EAGER, pearl

REQUESTS, TOKENS, PROMPT = 8, 400, 30
AR: Final = Settings(schedule="ar")
SD: Final = Settings(schedule="sd", gamma=4)
PEARL: Final = Settings(gamma=5)
PLAIN: Final = Pair.of(speed_ratio=5)
REAL: Final = Pair(
    draft=Affine(base=0.004, per_position=2e-6),
    target=Affine(base=0.02, per_token=0.001, per_position=1e-5),
)
FAR: Final = Network(control_s=0.0003, draft=Link(latency_s=0.0005), target=Link(latency_s=0.0008))


def requests(
    settings: Settings, acceptance: Acceptance, *, users: int = 1, **more: Any
) -> list[Request]:
    scenario = Scenario(
        settings=settings,
        acceptance=acceptance,
        workload=Workload(
            requests=REQUESTS,
            arrivals=ClosedLoop(users),
            prompt=Fixed(PROMPT),
            output=Fixed(TOKENS),
        ),
        **({"pair": PLAIN} | more),
    )
    records = run(scenario, seed=2, trace=True).records
    return [
        Request(
            name=f"{name_of(settings)} {number}",
            settings=replace(settings, max_new_tokens=TOKENS),
            prompt=PROMPT,
            records=tuple(record for record in records if record.request == number),
            simulated=True,
        )
        for number in range(REQUESTS)
    ]


@functools.cache
def compared(acceptance: Acceptance, *systems: Settings, real: bool = False) -> Validation:
    """All systems on the same luck."""
    times: dict[str, Any] = {"pair": REAL, "network": FAR} if real else {}
    return validate({name_of(s): requests(s, acceptance, **times) for s in systems})


def only(found: Validation, name: str) -> Comparison:
    return next(system for system in found.systems if system.name == name)


def claim(system: Comparison, name: str) -> Claim:
    return next(claim for claim in system.claims if claim.name == name)


THEOREM, BOUND = "theorem 2, 1/(1 - a) + 1", "theorem 2 as a bound"


# -- independent acceptance, and nothing else: all that theory assumes ---------------------------


@pytest.mark.slow
def test_where_its_assumptions_hold_theory_describes_the_run() -> None:
    found = compared(Independent(0.8), AR, SD, PEARL)

    assert found.violated == ()
    for system in found.systems:
        assert all(claim.holds for claim in system.claims)
        assert system.theory.tokens_per_s == pytest.approx(
            float(system.measured.tokens_per_s), rel=0.05
        )


@pytest.mark.slow
def test_theory_is_asked_at_what_was_measured() -> None:
    found = compared(Independent(0.8), AR, SD, PEARL)
    system = only(found, "PEARL 5")
    rate = float(system.acceptance.independent)

    assert found.constants.speed_ratio == pytest.approx(5)
    assert system.theory.speedup_over_ar == pytest.approx(pearl(rate, 5, 5).speedup)
    run = 1 / (1 - rate)
    assert system.theory.run_length == pytest.approx((run - 1, run, run + 1))


@pytest.mark.slow
def test_speed_over_ar_is_that_of_the_same_prompts() -> None:
    found = compared(Independent(0.8), AR, SD, PEARL)
    alone, pearl = only(found, "AR"), only(found, "PEARL 5")

    assert alone.speedup_over_ar == Estimate(1.0, 1.0, 1.0)
    assert float(pearl.speedup_over_ar) == pytest.approx(
        float(pearl.measured.tokens_per_s) / float(alone.measured.tokens_per_s)
    )
    assert pearl.simulated_over_ar == pytest.approx(float(pearl.speedup_over_ar), rel=1e-6)


@pytest.mark.slow
def test_without_ar_there_is_no_speed_over_it_and_nothing_to_be_lossless_against() -> None:
    system = only(compared(Independent(0.8), PEARL), "PEARL 5")

    assert system.speedup_over_ar == Estimate(None)
    assert {"lossless", "speed over AR is at most tokens per pass"}.isdisjoint(
        claim.name for claim in system.claims
    )


@pytest.mark.slow
def test_a_schedule_that_is_added_is_held_against_theory_like_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(SCHEDULES, "eager", EAGER)
    eager = Settings(schedule="eager", gamma=4)
    found = validate({name_of(s): requests(s, Independent(0.8)) for s in (AR, eager)})
    system = only(found, "EAGER 4")

    assert found.violated == ()
    assert all(claim.holds for claim in system.claims)
    assert system.theory.tokens_per_s == pytest.approx(
        float(system.measured.tokens_per_s), rel=0.05
    )


# -- the gap ---------------------------------------------------------------------------------------


LUCK: Final = (Independent(0.8), Bursts(0.8, 0.4), Mixture((0.5, 0.9), (1, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("acceptance", LUCK)
def test_the_factors_multiply_to_measured_over_theory_and_explain_it(
    acceptance: Acceptance,
) -> None:
    for system in compared(acceptance, AR, SD, PEARL, real=True).systems:
        said, real = system.theory.tokens_per_s, float(system.measured.tokens_per_s)
        few = grouped(system.factors)

        assert math.prod(system.factors.values()) == pytest.approx(real / said, rel=1e-6)
        assert math.prod(few.values()) == pytest.approx(real / said, rel=1e-6)
        assert few["unexplained"] == pytest.approx(1, abs=0.02)
        assert set(few) == set(PARTS_OF)


@pytest.mark.slow
def test_bursts_are_found_in_the_part_of_bursts() -> None:
    """Nothing else was put in, so nothing else is found."""
    factors = only(compared(Bursts(0.8, 0.4), AR, PEARL), "PEARL 5").factors

    assert factors.pop(Part.BURSTS) > 1.05
    assert list(factors.values()) == pytest.approx([1] * len(factors), abs=0.02)


@pytest.mark.slow
def test_prompts_that_differ_are_found_in_theirs() -> None:
    factors = only(compared(Mixture((0.3, 0.95), (1, 1)), AR, PEARL), "PEARL 5").factors

    assert abs(factors[Part.PROMPTS] - 1) > 0.05
    assert factors[Part.BURSTS] == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_growing_passes_prompts_and_messages_are_found_in_theirs() -> None:
    factors = only(compared(Independent(0.8), AR, PEARL, real=True), "PEARL 5").factors

    assert factors[Part.GROWTH] < 0.97
    assert factors[Part.READING] < 0.999
    assert factors[Part.MESSAGES] < 0.99


@pytest.mark.slow
def test_the_simulation_that_knows_the_luck_makes_the_same_passes() -> None:
    """Exact for greedy and coupled runs: verdicts do not depend on times."""
    for system in compared(Bursts(0.8, 0.4), AR, SD, PEARL, real=True).systems:
        assert system.simulation is not None
        assert system.simulation.tokens_per_target_pass.value == pytest.approx(
            float(system.measured.tokens_per_target_pass), rel=0.005
        )


# -- what theory states ----------------------------------------------------------------------------


@pytest.mark.slow
def test_bursts_break_theorem_2_and_keep_it_as_a_bound() -> None:
    found = compared(Bursts(0.8, 0.4), AR, PEARL)
    system = only(found, "PEARL 5")

    assert claim(system, THEOREM).holds is False
    assert claim(system, BOUND).holds
    assert claim(system, "mean run, 1/(1 - a)").holds
    assert "acceptance comes in bursts" in claim(system, THEOREM).why
    assert found.violated == ()


@pytest.mark.slow
def test_bursts_explain_what_independence_does_not() -> None:
    system = only(compared(Bursts(0.8, 0.4), AR, PEARL), "PEARL 5")

    assert claim(system, "tokens per target pass").holds is False
    assert claim(system, "tokens per target pass, bursts included").holds


@pytest.mark.slow
def test_tokens_that_are_easier_behind_a_rejection_violate_the_bound() -> None:
    """The first of each window is nearly always kept, the others are not: runs are shorter."""
    found = compared(Positions((0.95, 0.5)), PEARL)

    assert [(name, claim.name) for name, claim in found.violated] == [("PEARL 5", BOUND)]


@pytest.mark.slow
def test_other_tokens_than_those_of_ar_violate_the_first_promise() -> None:
    alone, parallel = requests(AR, Independent(0.8)), requests(PEARL, Independent(0.8))
    spoilt = [replace(parallel[0], records=_with_another_token(parallel[0].records)), *parallel[1:]]

    found = validate({"AR": alone, "PEARL 5": spoilt})

    lossless = claim(only(found, "PEARL 5"), "lossless")
    assert lossless in [claim for _, claim in found.violated]
    assert (lossless.stated, lossless.measured.value) == (REQUESTS, REQUESTS - 1)


def _with_another_token(records: tuple[Record, ...]) -> tuple[Record, ...]:
    last = max(n for n, r in enumerate(records) if isinstance(r, Received) and r.tokens)
    record = records[last]
    assert isinstance(record, Received)
    other = replace(record, tokens=(*record.tokens[:-1], record.tokens[-1] + 1))
    return (*records[:last], other, *records[last + 1 :])


@pytest.mark.slow
def test_a_pass_that_settles_more_than_it_judges_is_a_violation() -> None:
    """Windows of 5 that are passed off as windows of 2."""
    honest = requests(PEARL, Independent(0.95))
    doctored = [replace(r, settings=replace(r.settings, gamma=2)) for r in honest]

    found = validate({"PEARL 2": doctored})

    assert "no pass settles more than it judges" in [claim.name for _, claim in found.violated]


@pytest.mark.parametrize(
    ("relation", "measured", "holds"),
    [
        (Relation.EQUAL, Estimate(2.0, 1.0, 3.0), True),
        (Relation.EQUAL, Estimate(5.0, 4.0, 6.0), False),
        (Relation.AT_LEAST, Estimate(1.8, 1.5, 2.1), True),
        (Relation.AT_LEAST, Estimate(1.8, 1.7, 1.9), False),
        (Relation.AT_MOST, Estimate(2.3, 1.9, 2.6), True),
        (Relation.AT_MOST, Estimate(2.3, 2.1, 2.6), False),
        (Relation.AT_MOST, Estimate(2.0), True),
        (Relation.AT_MOST, Estimate(2.1), False),
        (Relation.EQUAL, Estimate(None), None),
    ],
)
def test_the_interval_decides(
    relation: Relation, measured: Estimate, *, holds: bool | None
) -> None:
    said = Claim(name="", convention="", relation=relation, stated=2.0, measured=measured)

    assert said.holds is holds


# -- theorem 1 -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_best_window_is_the_speed_ratio_where_nothing_else_counts() -> None:
    best = compared(Independent(0.8), AR, PEARL).best_window
    assert best is not None

    assert (best.holds, best.best, best.stated, best.theory) == (True, 5, (5,), 5)
    assert "holds for this run" in best.sentence


def test_growing_passes_move_the_best_window_and_the_sentence_says_so() -> None:
    best = BestWindow(speed_ratio=4.6, theory=5, simulated={4: 1.5, 5: 1.6, 7: 2.0})

    assert (best.stated, best.best, best.holds) == ((4, 5), 7, False)
    assert best.lost == pytest.approx(0.2)
    assert "fastest at gamma 7, and 20.0% slower at 4 or 5" in best.sentence


# -- what cannot be compared -----------------------------------------------------------------------


@pytest.mark.slow
def test_requests_at_the_same_time_have_no_factors_and_a_note() -> None:
    found = validate({"PEARL 5": requests(PEARL, Independent(0.8), users=4)})

    assert found.systems[0].factors == {}
    assert any("at the same time" in note for note in found.notes)


def test_automatic_windows_are_compared_at_their_median() -> None:
    auto = Settings(gamma="auto")
    found = validate({"PEARL auto": requests(auto, Independent(0.8))[:1]})
    system = found.systems[0]

    assert 3 <= system.gamma <= 8
    assert system.simulation is None
    assert system.factors[Part.REST] == pytest.approx(1, abs=0.02)
    assert any("automatic windows follow the times" in note for note in found.notes)


def test_a_policy_that_never_asked_the_draft_is_compared_as_ar() -> None:
    """Where a draft does not pay, automatic windows are none, and the run is the target's alone."""
    alone = requests(AR, Independent(0.8))
    resting = [
        replace(request, settings=replace(request.settings, schedule="pearl", gamma="auto"))
        for request in alone
    ]

    found = validate({"AR": alone, "PEARL auto": resting})

    system = only(found, "PEARL auto")
    assert system.gamma == 0
    assert system.theory.speedup_over_ar == 1
    assert float(system.speedup_over_ar) == 1
    assert [claim.name for claim in system.claims] == ["lossless"]
    assert set(system.factors.values()) == {1.0}
    assert found.best_window is None


def test_prompts_alone_cannot_be_validated() -> None:
    scenario = Scenario(settings=AR, pair=PLAIN, workload=Workload(output=Fixed(1)))
    records = run(scenario, trace=True).records
    short = Request(name="x", settings=AR, prompt=1, records=records)

    with pytest.raises(MalformedTraceError, match="the traces have no times"):
        validate({"AR": [short]})


@pytest.mark.slow
def test_where_the_draft_is_never_right_theory_still_has_an_answer() -> None:
    found = compared(Independent(0.0), AR, SD, PEARL)

    assert found.violated == ()
    assert only(found, "PEARL 5").theory.tokens_per_target_pass == 1


@pytest.mark.slow
def test_where_the_draft_is_always_right_runs_have_no_end() -> None:
    found = compared(Independent(1.0), AR, SD, PEARL)

    assert found.violated == ()
    assert claim(only(found, "PEARL 5"), THEOREM).holds is not False


# -- little evidence -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(1, 7))
def test_few_runs_that_are_all_alike_violate_nothing(seed: int) -> None:
    """At a rate of .05 the six runs of a text that kept anything have one token each."""
    scenario = Scenario(
        settings=PEARL,
        pair=PLAIN,
        acceptance=Independent(0.05),
        workload=Workload(output=Fixed(128)),
    )
    records = run(scenario, seed=seed, trace=True).records
    one = Request(name="x", settings=PEARL, prompt=1, records=records, simulated=True)

    assert validate({"PEARL 5": [one]}).violated == ()


def test_a_request_without_a_comparison_leaves_the_luck_of_the_others_alone() -> None:
    """A text of one token between two others: each is simulated with its own luck."""
    longer = requests(PEARL, Bursts(0.8, 0.4))[:2]
    scenario = Scenario(settings=PEARL, pair=PLAIN, workload=Workload(output=Fixed(1)))
    short = Request(
        name="short",
        run="apart",
        settings=PEARL,
        prompt=1,
        records=run(scenario, trace=True).records,
        simulated=True,
    )

    (system,) = validate({"PEARL 5": [longer[0], short, longer[1]]}).systems

    assert system.simulation is not None
    assert float(system.simulation.tokens_per_target_pass) == pytest.approx(
        float(system.measured.tokens_per_target_pass), rel=0.005
    )


@pytest.mark.slow
def test_requests_whose_prompts_are_unknown_are_not_paired() -> None:
    unknown = {
        name: [replace(request, prompt=None) for request in found]
        for name, found in {
            "AR": requests(AR, Independent(0.8)),
            "PEARL 5": requests(PEARL, Independent(0.5)),
        }.items()
    }

    system = only(validate(unknown), "PEARL 5")

    assert system.speedup_over_ar == Estimate(None)
    assert "lossless" not in [claim.name for claim in system.claims]


def test_where_nothing_has_factors_nothing_is_said_to_be_explained() -> None:
    found = validate({"PEARL 5": requests(PEARL, Independent(0.8), users=4)})

    assert found.unexplained is None
    assert found.best_window is None
