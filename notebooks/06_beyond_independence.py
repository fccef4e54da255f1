# %% [markdown]
# # Beyond independence: bursts, mixtures, censoring, and Jensen's gap
#
# The closed forms assume that every draft token is kept with the same chance $a$, whatever came
# before, in texts without end. Real agreement comes in bursts, differs from place to place and from
# prompt to prompt, and texts end. This page takes the assumptions away one by one, says what each
# does to the tokens of a pass, and shows which statistic notices.

# %%
import numpy as np

from pearl.analysis import departures, figures
from pearl.analysis.statistics import acceptance, independence, run_length, survival
from pearl.analysis.theory import Assumptions, expected
from pearl.decoding.exchanges import agreement
from pearl.decoding.kinds import SCHEDULES
from pearl.decoding.settings import Settings
from pearl.simulator import (
    Bursts,
    Fixed,
    Independent,
    Mixture,
    Pair,
    Positions,
    Scenario,
    Workload,
    run,
    simulate,
)

# %% [markdown]
# As elsewhere $a$ is the acceptance rate and $g$ the window. Agreement is written as a text of its
# own, which the code calls luck: `1` where the draft agreed with the target, `0` where it did not,
# `?` where nothing was compared. These are 60 of 400 tokens, drawn as the simulator draws its
# requests.

# %%
A, G, TOKENS = 0.8, 5, 400
SD, PEARL = "sd", "pearl"


def drawn(law, requests=60, tokens=TOKENS, seed=6):
    """Lucks of so many requests."""
    rng = np.random.default_rng(seed)
    texts = (law.text(rng, number) for number in range(requests))
    return ["".join(map(str, text.window(0, tokens))) for text in texts]


def decoded(law, schedule, gamma=G, requests=20, tokens=TOKENS):
    """A what-if: these requests one after the other, by this schedule."""
    return Scenario(
        settings=Settings(
            schedule=schedule, gamma=gamma, strict=SCHEDULES[schedule].takes("strict")
        ),
        pair=Pair.of(speed_ratio=5),
        acceptance=law,
        workload=Workload(requests=requests, output=Fixed(tokens)),
    )


def tokens_per_pass(law, schedule):
    return simulate(decoded(law, schedule), seed=6).tokens_per_target_pass


coin = drawn(Independent(A))

print(coin[0][:72])
print("rate", acceptance(coin).independent)

# %% [markdown]
# ## One coin
#
# A run goes from one rejection to the next. If agreement is one coin, at least $n$ tokens of a run
# are kept with chance $a^n$: a straight line where shares are drawn on a logarithmic scale.

# %%
figures.picture(
    lambda axes: figures.run_lengths(axes, survival(coin)[:25], alpha=A, title="One coin")
)

# %% [markdown]
# Three tests look for three ways in which agreement may be something else. `bursts` asks whether a
# text has fewer and longer runs than the same tokens in any order would have. `lengths` asks
# whether a token's chance depends on where in its run it stands. `requests` asks whether the texts
# have one rate. A small p says that independent agreement would seldom look like this.


# %%
def show(lucks):
    found = independence(lucks)
    for name in ("bursts", "lengths", "requests"):
        p = getattr(found, name).p
        print(f"{name:9} p = {p:.2g}" if p > 1e-99 else f"{name:9} p < 1e-99")
    print(f"correlation of neighbours {found.correlation:.2f}, within texts ", end="")
    print(f"{found.correlation_within:.2f}; independent: {found.holds}")
    return found


of_coin = show(coin)

# %% [markdown]
# ## Bursts
#
# Now a token agrees with chance $b = a + r(1 - a)$ behind one that did, and with $a(1 - r)$ behind
# one that did not. The rate is still $a$; neighbours have correlation $r$, and those at distance
# $d$ have $r^d$.

# %%
R = 0.4
bursts = Bursts(A, R)
clinging = drawn(bursts)

print(clinging[0][:72])
of_bursts = show(clinging)
print("by distance", *(f"{r:.2f}" for r in of_bursts.autocorrelation[:4]))

# %% [markdown]
# Many runs are empty now, and those that are not go on for longer: the line is no longer straight.
# `requests` speaks up too, though the texts are alike: bursts make the rates of texts vary more
# than a coin would. So read `bursts` first, which looks inside each text only.

# %%
figures.picture(
    lambda axes: figures.run_lengths(
        axes, survival(clinging)[:25], alpha=A, title=f"Bursts, correlation {R}"
    )
)

# %% [markdown]
# What do bursts cost? PEARL, nothing. A run of it still has $1/(1-a)$ tokens on average, for that
# is only how rare rejections are. Its first pass is always spent, a second one only if the first
# token was kept, with chance $a(1-r)$, and each further one if another window was, with chance
# $b^g$:
#
# $$\tau = \frac{1/(1 - a)}{1 + a(1 - r)/(1 - b^g)}.$$
#
# A rejection right behind another costs one pass, and no second one that a first kept token would
# have led to: **at one rate, bursts help PEARL**. Speculative decoding writes a whole window behind
# every rejection, just where the next one is likely, and **bursts hurt it**. Whoever puts a
# measured rate into the independent formulas understates the one and overstates the other.

# %%
print("r     PEARL: closed form, simulated        SD: closed form, simulated")
burst_forms, burst_runs = {}, {}
for r in (0.0, 0.2, 0.4, 0.6):
    law = Bursts(A, r)
    forms = (
        departures.tokens_in_bursts(Assumptions("pearl", A, G), r),
        departures.tokens_in_bursts(Assumptions("sd", A, G), r),
    )
    runs = tokens_per_pass(law, PEARL), tokens_per_pass(law, SD)
    burst_forms[r], burst_runs[r] = forms, runs
    print(f"{r:.1f}   {forms[0]:.3f}, {runs[0]!s:25}   {forms[1]:.3f}, {runs[1]}")

# %% [markdown]
# The second theorem of the paper is hit harder. "Mean accepted tokens $1/(1-a) + 1$" is the mean of
# runs whose first token was kept. In bursts such runs are much longer, and there are fewer of them:
#
# $$\mathrm{E}[\text{tokens} \mid \text{first kept}] = 1 + \frac{1}{(1-a)(1-r)}, \qquad
# \mathrm{P}[\text{first kept}] = a(1-r).$$

# %%
lengths = run_length(clinging)
print(f"accepted                 {lengths.accepted!s:25} a/(1-a) = {A / (1 - A):.2f}")
print(f"emitted                  {lengths.emitted!s:25} 1/(1-a) = {1 / (1 - A):.2f}")
print(f"emitted, first kept      {lengths.emitted_given_preverify!s:25} ", end="")
print(f"theorem 2 {1 / (1 - A) + 1:.2f}, in bursts {1 + 1 / (1 - A) / (1 - R):.2f}")
print(f"share with first kept    {lengths.first_kept!s:25} a(1-r) = {A * (1 - R):.2f}")

# %% [markdown]
# ## Chances by position
#
# A draft stands less firmly the further it has written on its own: here the first token of a window
# is kept with chance 0.9, the fifth with 0.5. What rate would one measure? The first places are
# compared most often, so the rate is neither the first chance nor their mean. And as the table
# shows, it is another one for another window: it is no property of the pair.

# %%
RATES = (0.9, 0.85, 0.75, 0.6, 0.5)
by_position = Positions(RATES)

print("gamma  rate measured   tokens of a pass: by position, at that rate, simulated")
position_forms, position_runs, position_rates = {}, {}, {}
for gamma in (2, 3, 5):
    records = run(decoded(by_position, PEARL, gamma), seed=6, trace=True).records
    rate = float(acceptance(list(agreement(records).values())).independent)
    form = departures.tokens_by_position(Assumptions("pearl", 1, gamma), RATES)
    alike = expected(Assumptions("pearl", rate, gamma)).tokens_per_pass
    answer = simulate(decoded(by_position, PEARL, gamma), seed=6).tokens_per_target_pass
    position_forms[gamma], position_runs[gamma], position_rates[gamma] = form, answer, rate
    print(f"{gamma:5}  {rate:13.3f}   {form:.3f}, {alike:.3f}, {answer}")

of_positions = show(list(agreement(records).values()))

# %% [markdown]
# The chances fall along a run, and `lengths` sees it. `bursts` sees the opposite of bursts: behind
# a rejection comes the first place of a window, which is the luckiest, so neighbours take turns.
#
# ## Prompts that differ, and Jensen's gap
#
# Some prompts are easy for the draft and some are hard. Within each of them agreement is a coin,
# but not the same coin. Say that both kinds write as many tokens; then what adds up are passes. The
# passes of a token, $1/\tau(a)$, fall faster and faster as the rate grows: a concave curve. The
# mean over prompts lies on its chord, below the curve, so the mean rate put into the formula says
# too many passes and too few tokens of a pass (Jensen's inequality).

# %%
EASY, HARD = 0.95, 0.5
prompts = Mixture((HARD, EASY), (1.0, 1.0))
WIDE = 10


def pearl(a):
    return expected(Assumptions("pearl", a, WIDE)).tokens_per_pass


mixed = departures.mixed_prompts(Assumptions("pearl", A, WIDE), [HARD, EASY], [1, 1])

print(f"hard prompts {pearl(HARD):.3f}, easy prompts {pearl(EASY):.3f}")
print(f"all their passes together  {mixed.tokens_per_pass:.3f}")
print(f"at the mean rate {mixed.mean_rate:.3f}    {mixed.at_mean_rate:.3f}")
print(f"Jensen's gap               {mixed.jensen_gap:.3f}")

# %% [markdown]
# The dot is the truth, the cross is what the mean rate says.


# %%
def draw_gap(axes):
    a = np.linspace(0.4, 0.99, 200)
    axes.plot(a, 1 / pearl(a), label=f"PEARL, gamma {WIDE}")
    axes.plot([HARD, EASY], [1 / pearl(HARD), 1 / pearl(EASY)], linestyle=":", label="chord")
    axes.plot(mixed.mean_rate, 1 / mixed.tokens_per_pass, "o", label="the prompts together")
    axes.plot(mixed.mean_rate, 1 / mixed.at_mean_rate, "x", label="at their mean rate")
    axes.set_xlabel("acceptance rate")
    axes.set_ylabel("passes of a token")
    axes.legend()


figures.picture(draw_gap)

# %%
of_prompts_run = simulate(decoded(prompts, PEARL, WIDE, requests=60), seed=6)
print("simulated", of_prompts_run.tokens_per_target_pass)

differing = drawn(prompts)
of_prompts = show(differing)
rate = acceptance(differing)
print("the rate, if all were one coin ", rate.independent)
print("the rate, for other prompts    ", rate.over_requests)

# %% [markdown]
# Neighbours are correlated, but only because both stand in an easy text or both in a hard one:
# inside the texts nothing is left, and `bursts` does not blame them. (`lengths` does speak up: long
# runs come from the easy texts, so a run that has come far goes on.) The two intervals say how much
# is known of *these tokens* and of *prompts like these*: the second is the one to quote.
#
# ## Texts that end
#
# The end of a text cuts its last run short. To leave out such runs is to leave out long ones; to
# count them as whole is to count a rejection that never was. A run that was cut short counts for
# what was seen of it:
#
# $$\hat a = \frac{\text{kept}}{\text{kept} + \text{rejections}},$$
#
# which is the maximum-likelihood estimate of a geometric law that is censored.

# %%
HIGH = 0.9


def three_ways(lucks):
    """The rate from complete runs only, with cut runs as complete ones, and censored."""
    runs = [[len(run) for run in luck.split("0")] for luck in lucks]
    complete = [length for *whole, _ in runs for length in whole]
    every = [length for found in runs for length in found]
    naive = (1 - 1 / (1 + np.mean(lengths)) for lengths in (complete, every))
    return *naive, float(acceptance(lucks).independent)


print("tokens  complete only  cut as complete  censored   (the truth is 0.9)")
estimates = {}
for tokens in (8, 16, 32, 128, 512):
    lucks = drawn(Independent(HIGH), requests=64_000 // tokens, tokens=tokens)
    estimates[tokens] = three_ways(lucks)
    print(f"{tokens:6}  {{:13.3f}}  {{:15.3f}}  {{:8.3f}}".format(*estimates[tokens]))

# %% [markdown]
# The end also costs passes: there is nothing left to fill the last window with, and the first pass
# of a text stands on nothing. The exact mean comes from a recursion over the tokens left.

# %%
endless = expected(Assumptions("pearl", A, G)).tokens_per_pass
print(f"tokens  tokens of a pass: exact, simulated   (without end {endless:.3f})")
ends, end_runs = {}, {}
for tokens in (8, 32, 128, 512):
    scenario = decoded(Independent(A), PEARL, requests=8_000 // tokens, tokens=tokens)
    ends[tokens] = tokens / departures.passes_of(Assumptions("pearl", A, G), tokens)
    end_runs[tokens] = simulate(scenario, seed=6).tokens_per_target_pass
    print(f"{tokens:6}  {ends[tokens]:.3f}, {end_runs[tokens]}")

# %% [markdown]
# ## How much one text says
#
# Even a single coin gives no two texts the same speed. Over $n$ passes the tokens of a pass have
# variance $v/n$; runs are what repeats itself, so $v$ follows from the mean and the spread of a run
# (renewal and reward). For its mean PEARL has the larger spread: its passes come in streaks, one
# token each behind a rejection and whole windows while all goes well.

# %%
spread = {
    "PEARL": departures.variance(Assumptions("pearl", A, G)),
    "SD": departures.variance(Assumptions("sd", A, G)),
}
mean = {
    "PEARL": expected(Assumptions("pearl", A, G)).tokens_per_pass,
    "SD": expected(Assumptions("sd", A, G)).tokens_per_pass,
}
for name, variance in spread.items():
    passes = variance / (0.05 / 1.96 * mean[name]) ** 2
    print(f"{name:5}  mean {mean[name]:.3f}, variance {variance:.2f}; within 5 %, 19 times in 20,")
    print(f"       from {passes:.0f} passes or {passes * mean[name]:.0f} tokens on")

# %%
served = run(decoded(Independent(A), PEARL, requests=200, tokens=500), seed=6).served
ratios = np.array([each.metrics.tokens_per_target_pass for each in served])
passes = np.mean([each.metrics.target_passes for each in served])
print(f"200 texts of 500 tokens: variance × passes = {ratios.var(ddof=1) * passes:.2f}")

# %% [markdown]
# ## What this page claims
#
# Each line below fails if its sentence is no longer true.


# %%
def holds(estimate, truth, slack=0.0):
    """Within the interval made twice as wide, and what the end of a text may cost."""
    low, high = estimate.interval
    wide = (high - low) / 2 + slack * truth
    return low - wide <= truth <= high + wide


# A coin is taken for a coin.
assert of_coin.holds
assert abs(of_coin.correlation) < 0.03

# Bursts are found, and their correlation fades as r, r^2, r^3.
assert of_bursts.bursts.p < 1e-6
assert of_bursts.bursts.statistic < 0
assert np.allclose(of_bursts.autocorrelation[:3], [R, R**2, R**3], atol=0.03)

# At one rate bursts help PEARL and hurt speculative decoding, as much as the closed forms say.
for r, forms in burst_forms.items():
    for form, simulated in zip(forms, burst_runs[r], strict=True):
        assert holds(simulated, form, slack=0.01)
for one, other in ((0.0, 0.2), (0.2, 0.4), (0.4, 0.6)):
    assert burst_forms[other][0] > burst_forms[one][0]
    assert burst_forms[other][1] < burst_forms[one][1]

# In bursts theorem 2 has another value, and the plain run has not.
assert holds(lengths.emitted, 1 / (1 - A), slack=0.01)
assert holds(lengths.emitted_given_preverify, 1 + 1 / (1 - A) / (1 - R), slack=0.01)
assert lengths.emitted_given_preverify.low > 1 / (1 - A) + 1

# Chances by position are found by the lengths of runs, and the rate depends on the window.
assert of_positions.lengths.p < 1e-6
assert of_positions.correlation_within < 0
assert position_rates[2] > position_rates[3] > position_rates[5]
for gamma, form in position_forms.items():
    assert holds(position_runs[gamma], form, slack=0.01)

# Prompts that differ are found, and not blamed on bursts; the mean rate says too little.
assert of_prompts.requests.p < 1e-6
assert not of_prompts.bursts.refuted
assert of_prompts.correlation > 0.15 > abs(of_prompts.correlation_within)
assert mixed.jensen_gap > 0.1
assert holds(of_prompts_run.tokens_per_target_pass, mixed.tokens_per_pass, slack=0.01)

# Of other prompts one knows less than of these tokens.
(low, high), (least, most) = rate.independent.interval, rate.over_requests.interval
assert most - least > 3 * (high - low)

# Runs that are cut short bend the naive rates downwards, and do not bend the censored one.
for complete, cut_as_complete, censored in estimates.values():
    assert abs(censored - HIGH) < 0.006
    assert complete < censored
    assert cut_as_complete < censored
assert estimates[8][1] < HIGH - 0.05

# Short texts have fewer tokens of a pass, exactly as many as the recursion says.
for tokens, exact in ends.items():
    assert holds(end_runs[tokens], exact)
assert ends[8] < ends[32] < ends[128] < ends[512] < endless

# The spread of a text's figure is that of renewal and reward; for its mean PEARL's is the larger.
assert spread["PEARL"] / mean["PEARL"] ** 2 > spread["SD"] / mean["SD"] ** 2
assert abs(ratios.var(ddof=1) * passes / spread["PEARL"] - 1) < 0.3
