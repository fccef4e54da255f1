"""`gamma="auto"` finds what theory and the simulator say is best, from what it sees.

Notation of the theory: a acceptance rate, g gamma, c draft steps that fit in a pass.
"""

from __future__ import annotations

import numpy as np
import pytest

from pearl.analysis import theory
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.measured import WIDEST, Measurements
from pearl.decoding.policies import AutoPolicy
from pearl.simulator.costs import Constant
from pearl.simulator.twin import PairTimes, Scheme, decode
from pearl.simulator.world import Pair
from tests.analysis.forms import pearl, pearl_at, sd, sd_at
from tests.decoding.learning import learn, timed, windows

SD, PEARL = SCHEDULES["sd"], SCHEDULES["pearl"]
CLOSE = 0.985  # of the best speed: a hundredth is not worth a change, and a is an estimate


@pytest.mark.parametrize("c", [2, 5, 10, 20])
@pytest.mark.parametrize("a", [0.6, 0.8, 0.9])
def test_parallel_decoding_settles_near_the_speed_ratio(a: float, c: int) -> None:
    """Theorem 1 of the paper: at a flat pass time and a whole c, the best window is c."""
    found = windows(AutoPolicy(PEARL), a, c)[-1]

    assert theory.best_gamma(pearl_at(a, c=c)) == c
    assert pearl(a, found, c).speedup > CLOSE * pearl(a, c, c).speedup


@pytest.mark.parametrize(
    ("a", "c", "best"), [(0.5, 5, 1), (0.5, 10, 2), (0.8, 5, 4), (0.9, 5, 7), (0.9, 10, 10)]
)
def test_speculative_decoding_settles_near_its_published_optimum(
    a: float, c: int, best: int
) -> None:
    """The optima of the table in the theory (at a = .5, c = 5, windows of 1 and 2 are equal)."""
    found = windows(AutoPolicy(SD), a, c)[-1]

    assert theory.best_gamma(sd_at(a, c=c)) == best
    assert sd(a, found, c).speedup > CLOSE * sd(a, best, c).speedup


def test_pass_times_that_grow_with_the_window_shorten_it() -> None:
    """A line is fitted through the passes, so their growth counts."""
    growing = list(learn(AutoPolicy(PEARL), 0.8, lambda tokens: 4 + 1.5 * tokens))

    growth = 1.5 / 5.5  # of a pass over one token
    best = theory.best_gamma(pearl_at(0.8, c=5.5, growth=growth))
    found, most = pearl(0.8, [growing[-1], best], 5.5, growth=growth).speedup
    assert found > CLOSE * most


@pytest.mark.parametrize("k", [0, 2])
def test_speeds_are_those_of_the_runs_that_were_seen(k: int) -> None:
    """The twin makes the same of each run; a pass takes as long as four draft steps."""
    runs = [0, 0, 3, 7, 1, 30, 2, 9] * 8  # as many as are remembered
    measured = timed()
    for run in runs:
        measured.add_run(run)
    times = PairTimes(Pair(draft=Constant(1.0), target=Constant(4.0)))

    found = measured.speeds(PEARL, head_start=k)

    for gamma in range(1, WIDEST + 1):
        decoded = decode(np.array(runs), Scheme("pearl", gamma, k), times)
        tokens = decoded.rounds.tokens.sum()
        assert found[gamma] == pytest.approx(tokens / decoded.seconds.sum())


def test_runs_that_come_in_bursts_have_the_window_that_is_best_for_them() -> None:
    """Half of the runs are empty, the others long: by their one rate a window of 6 was best."""
    measured = timed(judge=6.0)
    for _ in range(Measurements.RUNS // 2):
        measured.add_run(0)
        measured.add_run(13)

    found = measured.speeds(PEARL)

    assert theory.best_gamma(pearl_at(13 / 15, c=6)) == 6
    assert int(found[1:].argmax()) + 1 == 7
    assert found[7] > 1.05 * found[6]
