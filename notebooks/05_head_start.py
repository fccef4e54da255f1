# %% [markdown]
# # Head start: when PEARL loses, and how a few tokens repair it
#
# After each rejection PEARL spends a whole pass on one token. Where the draft is much faster than
# the target and often wrong, that costs more than working at the same time gains, and plain
# speculative decoding is faster. A *head start* lets the draft write $k$ tokens before that pass.

# %%
import numpy as np

from pearl.analysis import figures
from pearl.analysis.theory import (
    Assumptions,
    best_gamma,
    best_head_start,
    expected,
    head_start_criterion,
)
from pearl.decoding.settings import Settings
from pearl.simulator import Fixed, Independent, Pair, Scenario, Workload, run, simulate
from pearl.simulator.twin import PairTimes, Scheme, exact, seconds_per_token

# %% [markdown]
# The letters: $a$ the chance that a draft token is kept, $g$ gamma, $c$ the speed ratio, $k$ the
# head start; nothing else costs anything here ($l = 0$).
#
# ## Where PEARL loses
#
# PEARL at its best window, $g = c$, against speculative decoding at its own best:

# %%
RATES, RATIOS = (0.3, 0.5, 0.7, 0.8, 0.9), (2, 5, 7, 10, 14, 20)


def speculative_best(alpha, ratio):
    """Speed over AR of speculative decoding with its best window."""
    gamma = best_gamma(Assumptions("sd", alpha, speed_ratio=ratio))
    return float(expected(Assumptions("sd", alpha, gamma, ratio)).speedup)


def ahead_best(alpha, ratio):
    """The best head start at gamma = c, and the speed over AR with it."""
    k = int(best_head_start(Assumptions("pearl", alpha, ratio, ratio)))
    return k, float(expected(Assumptions("pearl", alpha, ratio, ratio, head_start=k)).speedup)


lead = {
    (a, c): float(expected(Assumptions("pearl", a, c, c)).speedup) / speculative_best(a, c)
    for a in RATES
    for c in RATIOS
}
print("PEARL over SD, each at its best\n")
print("    a" + "".join(f"   c = {c:<3}" for c in RATIOS).rstrip())
for a in RATES:
    print(f"{a:5}" + "".join(f"{lead[a, c]:9.3f}" for c in RATIOS))

# %% [markdown]
# It loses below 1: with a draft that is right half of the time from a speed ratio of 7 on, with
# 80 % from about 14 on. The faster the draft, the cheaper it is to wait for it, and the dearer is
# the pass that judges a single token.
#
# ## What a head start does
#
# With a head start of $k$ the first pass of a run judges $k + 1$ tokens. A run still has
# $1/(1 - a)$ tokens; it takes $k$ draft steps more, and fewer passes: the first one, and another
# $1/(1 - a^g)$ of them if the first $k + 1$ tokens were right, with chance $a^{k+1}$:
#
# $$S = \frac{1/(1-a)}{k/c + \max(g/c, 1)\left(1 + \dfrac{a^{k+1}}{1 - a^g}\right)}.$$
#
# The same text without and with a head start; the numbers on the passes are the tokens that each
# settled:

# %%
ALPHA, RATIO = 0.6, 10


def parallel(gamma, k, tokens=10_000):
    """A what-if at this page's acceptance and speed ratio."""
    return Scenario(
        settings=Settings(gamma=gamma, head_start=k, strict=True),
        pair=Pair.of(speed_ratio=RATIO),
        acceptance=Independent(ALPHA),
        workload=Workload(output=Fixed(tokens)),
    )


K, _ = ahead_best(ALPHA, RATIO)


def timeline(k, title):
    """The first rounds of the text with a head start."""
    records = run(parallel(RATIO, k, tokens=400), seed=1, trace=True).records
    return figures.picture(
        lambda axes: figures.timeline(axes, records, title=title, rounds=8), size=(9, 2.8)
    )


timeline(0, f"PEARL at a = {ALPHA} and c = {RATIO}, no head start")

# %%
timeline(K, f"The same text with a head start of {K}")

# %% [markdown]
# ## The best head start
#
# One token more costs $1/c$. It saves a round with the chance that the run ends exactly there: that
# the first $k + 1$ tokens are right and the next is not is $(1 - a)\,a^{k+1}$, and it then saves
# the $1/(1 - a^g)$ passes that would have followed. For $g \le c$ it pays as long as
#
# $$c\,(1 - a)\,a^{k+1} > 1 - a^g,$$
#
# and the left side falls with $k$: the first $k$ at which this fails is the best. (In general $c$
# is $\max(g, c)$ there.)

# %%
TRIED = tuple(range(9))
speeds = {
    k: float(expected(Assumptions("pearl", ALPHA, RATIO, RATIO, head_start=k)).speedup)
    for k in TRIED
}
measured = {k: simulate(parallel(RATIO, k), seed=4).speedup_over_ar for k in TRIED}
fails = head_start_criterion(Assumptions("pearl", ALPHA, RATIO, RATIO, head_start=np.array(TRIED)))
other = speculative_best(ALPHA, RATIO)

print(f"a = {ALPHA}, g = c = {RATIO}; SD at its best: {other:.3f}\n")
print("k   theory   simulated                   one more pays")
for k in TRIED:
    print(f"{k}    {speeds[k]:.3f}   {measured[k]!s:26}  {'no' if fails[k] else 'yes'}")

# %% [markdown]
# ## Never slower than speculative decoding
#
# With its best head start PEARL does not lose to speculative decoding anywhere, at $g = c$ and
# without overhead. That is no accident. Let speculative decoding write windows of $g'$: with
# $k = g'$ PEARL waits as long for the same window, judges it in the same pass, and where that
# window is kept it has, instead of one bonus token, a window that was written meanwhile.

# %%
repaired = {(a, c): ahead_best(a, c) for a in RATES for c in RATIOS}
print("best head start, and PEARL over SD with it\n")
print("    a" + "".join(f"   c = {c:<6}" for c in RATIOS).rstrip())
for a in RATES:
    cells = (
        f"{repaired[a, c][0]:4} {repaired[a, c][1] / speculative_best(a, c):7.3f}" for c in RATIOS
    )
    print(f"{a:5}" + "".join(cells))

# %% [markdown]
# The map: colour is the speed over AR with the best head start; one line is where speculative
# decoding overtakes PEARL without one, the other where a head start begins to pay. All of what lies
# between SD and PEARL becomes PEARL's.

# %%
alphas, ratios = np.arange(0.30, 0.985, 0.02), np.arange(2, 21)
grid_a, grid_c = np.meshgrid(alphas, ratios)
windows = best_gamma(Assumptions("sd", grid_a, speed_ratio=grid_c))
starts = best_head_start(Assumptions("pearl", grid_a, grid_c, grid_c))
maps = {
    "ar": np.ones(grid_a.shape),
    "sd": expected(Assumptions("sd", grid_a, windows, grid_c)).speedup,
    "pearl": expected(Assumptions("pearl", grid_a, grid_c, grid_c)).speedup,
    figures.HEAD_START: expected(
        Assumptions("pearl", grid_a, grid_c, grid_c, head_start=starts)
    ).speedup,
}
figures.picture(
    lambda axes: figures.speedup_map(
        axes, alphas, ratios, maps, title="Speed over AR: PEARL at gamma = c, SD at its best gamma"
    ),
    size=(8, 4.6),
)

# %% [markdown]
# ## What it costs
#
# The target waits while the head start is written, so tokens per pass rise and the target's idle
# share rises with them: a head start trades passes for time. It helps less where messages cost
# much, for it is one exchange more after each rejection.

# %%
plain, started = (simulate(parallel(RATIO, k), seed=4) for k in (0, K))
print("head start   tokens per pass          target idle   draft tokens wasted")
for k, found in ((0, plain), (K, started)):
    idle, wasted = float(found.target_idle), float(found.wasted)
    print(f"{k:10}   {found.tokens_per_target_pass!s:23}  {idle:11.1%}   {wasted:.1%}")

# %% [markdown]
# ## What was claimed

# %%
# PEARL without a head start loses to speculative decoding where the draft is fast and often wrong:
# at a = .5 from c = 7 on, at a = .8 from c = 14 on.
assert lead[0.5, 5] > 1 > lead[0.5, 7]
assert lead[0.8, 10] > 1 > lead[0.8, 14]
# The best head start repairs all of it, here and on the whole map.
assert all(speed >= speculative_best(a, c) for (a, c), (_, speed) in repaired.items())
assert (maps[figures.HEAD_START] >= maps["sd"] * (1 - 1e-12)).all()
assert (maps["pearl"] < maps["sd"]).any()
# The criterion finds the best head start: the first k at which one token more does not pay.
assert int(np.argmax(fails)) == K == max(speeds, key=speeds.get)
for a, c in repaired:
    found = head_start_criterion(Assumptions("pearl", a, c, c, head_start=np.arange(257)))
    k = int(np.argmax(found))
    assert (
        abs(expected(Assumptions("pearl", a, c, c, head_start=k)).speedup / repaired[a, c][1] - 1)
        < 1e-11
    )
# The real schedule is as fast as the form says, within its interval widened by half a percent.
for k in TRIED:
    low, high = measured[k].interval
    assert 0.995 * low <= speeds[k] <= 1.005 * high
# On the exact law of runs it is so to rounding.
for k in TRIED:
    scheme = Scheme("pearl", RATIO, k)
    law = exact(Independent(ALPHA), scheme)
    time = seconds_per_token(law, scheme, PairTimes(Pair.of(RATIO, 1.0)))
    assert abs(1 / time / speeds[k] - 1) < 1e-9
# What it costs: the target waits more, and each pass yields more.
assert float(started.target_idle) > float(plain.target_idle)
assert float(started.tokens_per_target_pass) > float(plain.tokens_per_target_pass)
