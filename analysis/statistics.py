"""How often the draft agrees with the target, how sure that is, and whether it is independent.

Everything here is computed from *luck*: for each request a text with a character a position, `1`
where the draft agreed with the target, `0` where it did not, `?` where nothing was compared
(`pearl.decoding.exchanges.agreement`, `pearl.analysis.traces.Request.luck`).

    acceptance(lucks)       the rate, for these tokens and for other prompts like these
    run_length(requests)    tokens from one rejection to the next, in the conventions about
    survival(lucks)         the share of runs that keep at least n tokens, beside the geometric law
    independence(lucks)     whether agreement is one coin tossed again and again; if not, why

The end of a text cuts its last run short. To leave that run out, or to take it for a whole one,
makes runs look shorter than they are; here it counts for what was seen of it, tokens kept and no
rejection, so that the rate is kept / (kept + rejections): the maximum-likelihood estimate of a
geometric law that is censored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pearl.decoding.estimates import LEVEL, Estimate, inverse, of_part, of_ratio, of_share, shifted
from pearl.decoding.exchanges import correlation

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

FEWEST: Final = 5  # expected in a cell of a chi-square test; variance of a count of runs
LAGS: Final = 8


# -- the rate ----------------------------------------------------------------------------------


class AcceptanceRate(msgspec.Struct, frozen=True, kw_only=True):
    """How often a draft token was kept.

    Args:
        kept, rejections: tokens that agreed, and that did not; all others were never compared.
        independent: the rate, as sure as it is if each token had the same chance (Wilson).
        over_requests: the rate, as sure as it is for other requests like these: they may differ,
            and agreement may come in bursts. Without an interval where there is one request.
    """

    kept: int
    rejections: int
    independent: Estimate
    over_requests: Estimate


def acceptance(lucks: Sequence[str]) -> AcceptanceRate:
    """The acceptance rate, from what was compared in each request."""
    kept, rejections = _kept(lucks), _rejections(lucks)
    return AcceptanceRate(
        kept=int(kept.sum()),
        rejections=int(rejections.sum()),
        independent=of_share(int(kept.sum()), int(rejections.sum())),
        over_requests=of_part(kept, kept + rejections),
    )


def _kept(lucks: Iterable[str]) -> Counts:
    return np.array([luck.count("1") for luck in lucks], dtype=np.int64)


def _rejections(lucks: Iterable[str]) -> Counts:
    return np.array([luck.count("0") for luck in lucks], dtype=np.int64)


# -- runs --------------------------------------------------------------------------------------


class RunEstimates(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens from one rejection to the next, in the conventions that are in circulation.

    Each is tokens over rejections, so a run that the end of the text cuts short counts for what
    was seen of it. A figure without its convention is worthless.

    Args:
        accepted: draft tokens kept (the authors' code).
        emitted: the same with the replacement, and with bonus tokens (nano-PEARL).
        emitted_given_preverify: `emitted` of those runs in which the first token was kept: the
            mean accepted tokens of the paper's theorem 2.
        first_kept: the share of those runs. Where it is the acceptance rate, theorem 2 holds.
    """

    accepted: Estimate
    emitted: Estimate
    emitted_given_preverify: Estimate
    first_kept: Estimate


def run_length(lucks: Sequence[str]) -> RunEstimates:
    """The conventions, from what was compared in each request.

    A place that was not compared (`?`) belongs to the run it stands in: the bonus token of
    speculative decoding. Those at the end of a text do not count: a limit leaves its last token
    to the target alone. Intervals are over requests; of a single request, over its runs.
    """
    apart = len(lucks) == 1
    counts = [row for luck in lucks for row in _run_counts(luck, apart=apart)]
    found = np.array(counts, dtype=float).reshape(-1, len(_RunCounts.__struct_fields__))
    kept, emitted, rejections, begun, first, further, ended = found.T
    # The runs of one request are tries, of which none or each may be a hit.
    tries = of_share(int(first.sum()), int((begun - first).sum())) if apart else None
    return RunEstimates(
        accepted=inverse(of_ratio(rejections, kept)),
        emitted=inverse(of_ratio(rejections, emitted)),
        emitted_given_preverify=shifted(inverse(of_ratio(ended, further)), 1.0),
        first_kept=of_part(first, begun) if tries is None else tries,
    )


class _RunCounts(msgspec.Struct, frozen=True, array_like=True):
    """Sums over runs; `further` and `ended` are of runs whose first token was kept.

    Args:
        begun, first: runs whose first token was compared, and those in which it was kept.
        further: tokens emitted behind the first one.
        ended: rejections.
    """

    kept: int
    emitted: int
    rejections: int
    begun: int
    first: int
    further: int
    ended: int


def _run_counts(luck: str, *, apart: bool) -> list[tuple[int, ...]]:
    """The counts of each run where they are wanted apart, else of the whole request."""
    *whole, cut = luck.rstrip("?").split("0")
    each = [_of_run(run, ended=True) for run in whole]
    each += [_of_run(cut, ended=False)] if cut else []
    if apart:
        return each
    return [tuple(map(sum, zip(*each, strict=True)))] if each else []


def _of_run(run: str, *, ended: bool) -> tuple[int, ...]:
    emitted = len(run) + ended
    first = run.startswith("1")
    counts = _RunCounts(
        kept=run.count("1"),
        emitted=emitted,
        rejections=int(ended),
        begun=int(first or (ended and not run)),
        first=int(first),
        further=emitted - 1 if first else 0,
        ended=int(ended and first),
    )
    return msgspec.structs.astuple(counts)


def survival(lucks: Sequence[str]) -> tuple[Estimate, ...]:
    """The share of runs that keep at least n draft tokens, for n from 0 on.

    Kaplan and Meier's product over the tokens that were compared, for runs are cut short by the
    end of their text (1958, Journal of the American Statistical Association 53). It ends where no
    run is left. The interval is on the logarithm of the logarithm: over requests; of a single
    request, over its runs.
    """
    reached, ended = _hazards(lucks)
    over = reached.sum(axis=0) == ended.sum(axis=0)
    places = int(over.argmax()) if over.any() else len(over)
    reached, ended = reached[:, :places], ended[:, :places]
    shares = np.cumprod(1 - ended.sum(axis=0) / reached.sum(axis=0))
    halves = _log_halves(reached, ended)
    pairs = zip(shares.tolist(), halves.tolist(), strict=True)
    return (Estimate(1.0, 1.0, 1.0), *(_survived(share, half) for share, half in pairs))


def _survived(share: float, half: float) -> Estimate:
    """A share, with half the width of the interval of its logarithm."""
    if share == 1:
        return Estimate(1.0)
    bend = math.exp(half / abs(math.log(share)))
    return Estimate(share, share**bend, share ** (1 / bend))


def _log_halves(reached: Counts, ended: Counts) -> Array:
    """Half the widths of the intervals of the shares' logarithms.

    Over runs by Greenwood's error; over requests by what each adds to the product more or less
    than its part (Williams 1995, Biometrics 51), with Student's quantile. Where few requests have
    long runs the latter knows too little of them: the wider of the two is taken.
    """
    there, refused = reached.sum(axis=0), ended.sum(axis=0)
    level, count = (1 + LEVEL) / 2, len(reached)
    greenwood = np.cumsum(refused / (there * (there - refused)))
    over_runs = np.asarray(stats.norm.ppf(level) * np.sqrt(greenwood), dtype=float)
    if count == 1:
        return over_runs
    away = np.cumsum((ended - reached * (refused / there)) / (there - refused), axis=1)
    between = np.sqrt((away**2).sum(axis=0) * count / (count - 1))
    return np.asarray(np.maximum(over_runs, stats.t.ppf(level, count - 1) * between))


def _hazards(lucks: Iterable[str]) -> tuple[Counts, Counts]:
    """For each place in a run: how many runs were compared there, and how many ended there.

    Returns: two arrays of shape (requests, places).
    """
    parts = [luck.replace("?", "").split("0") for luck in lucks]
    whole = [[len(run) for run in runs] for *runs, _ in parts]
    cut = np.array([len(last) for *_, last in parts], dtype=np.int64).reshape(-1, 1)
    places = max([0, *cut.flat, *(length + 1 for runs in whole for length in runs)])
    ended = [np.bincount(runs, minlength=places) for runs in whole]
    table = np.array(ended, dtype=np.int64).reshape(len(whole), places)
    # A run is compared in the place where it ends; one that was cut short is not.
    reached = table[:, ::-1].cumsum(axis=1)[:, ::-1] + (np.arange(places) < cut)
    return reached, table


# -- independence ------------------------------------------------------------------------------


class Significance(msgspec.Struct, frozen=True, kw_only=True):
    """A test of one way in which agreement may fail to be one coin.

    Args:
        statistic: what was computed; with `degrees` of freedom where it is a chi-square.
        p: the chance of one as extreme, if agreement were independent; None where too little was
            compared to tell.
    """

    statistic: float | None
    degrees: int | None = None
    p: float | None

    @property
    def refuted(self) -> bool:
        """Whether independence would be a surprise, at the level of the intervals."""
        return self.p is not None and self.p < 1 - LEVEL


class Independence(msgspec.Struct, frozen=True, kw_only=True):
    """Whether acceptance is independent and alike, as the closed forms assume.

    Args:
        correlation: of neighbouring positions, around the common mean: all there is.
        correlation_within: the same around each request's own mean: bursts in a text.
        autocorrelation: `correlation_within` at the distances 1, 2, 3 …
        bursts: are runs fewer and longer, in each request, than the same tokens in any order
            would make them? (Wald and Wolfowitz 1940; the statistic is a normal deviate,
            negative for bursts; exact mean and variance given each request's counts.)
        lengths: is a token's chance the same wherever in a run it stands, as a geometric law
            has it? (chi-square on kept and refused at each place, cut runs included)
        requests: do all requests have one rate? (chi-square)
    """

    correlation: float
    correlation_within: float
    autocorrelation: tuple[float, ...]
    bursts: Significance
    lengths: Significance
    requests: Significance

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it; three tests are made, so each at a third."""
        verdicts = (self.bursts, self.lengths, self.requests)
        known = [verdict.p for verdict in verdicts if verdict.p is not None]
        return all(p >= (1 - LEVEL) / len(verdicts) for p in known)


def independence(lucks: Sequence[str]) -> Independence:
    """The three tests, and the correlations."""
    kept, rejections = _kept(lucks), _rejections(lucks)
    compared = int((kept + rejections).sum())
    around = float(kept.sum()) / compared if compared else None
    # The mean of n values is nearer to them than the truth is: each product is low by 1/n.
    return Independence(
        correlation=correlation(lucks, around=around),
        correlation_within=correlation(lucks),
        autocorrelation=tuple(correlation(lucks, lag=lag) for lag in range(1, LAGS + 1)),
        bursts=_bursts(lucks),
        lengths=_chi_square(*_binned(lucks)),
        requests=_chi_square(kept, rejections),
    )


def _bursts(lucks: Iterable[str]) -> Significance:
    """Wald and Wolfowitz's test, summed over requests."""
    seen = expected = variance = 0.0
    for luck in lucks:
        compared = luck.replace("?", "")
        ones, zeros, n = compared.count("1"), compared.count("0"), len(compared)
        if ones == 0 or zeros == 0:
            continue  # all orders are the same
        twice = 2 * ones * zeros
        seen += 1 + sum(a != b for a, b in itertools.pairwise(compared))
        expected += twice / n + 1
        variance += twice * (twice - n) / (n * n * (n - 1))
    if variance < FEWEST:  # so few rejections that two in a row are no sign yet
        return Significance(statistic=None, p=None)
    deviate = (seen - expected) / math.sqrt(variance)
    return Significance(statistic=deviate, p=2 * float(stats.norm.sf(abs(deviate))))


def _binned(lucks: Sequence[str]) -> tuple[Counts, Counts]:
    """Kept and refused at places of a run; places that few runs reach are taken together."""
    reached, ended = (counts.sum(axis=0) for counts in _hazards(lucks))
    kept = reached - ended
    enough = _enough(int(kept.sum()), int(ended.sum()))
    bins: list[tuple[int, int]] = []
    held = refused = 0
    for more, over in zip(kept, ended, strict=True):
        held, refused = held + int(more), refused + int(over)
        if held + refused >= enough:
            bins.append((held, refused))
            held = refused = 0
    if bins and (held or refused):
        bins[-1] = bins[-1][0] + held, bins[-1][1] + refused
    table = np.array(bins, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _enough(kept: int, refused: int) -> float:
    """How many comparisons a bin needs for `FEWEST` of either kind to be expected."""
    rarer = min(kept, refused)
    return FEWEST * (kept + refused) / rarer if rarer else math.inf


def _chi_square(kept: Counts, refused: Counts) -> Significance:
    """Whether all bins have one rate; small ones do not count."""
    some = kept + refused >= _enough(int(kept.sum()), int(refused.sum()))
    if some.sum() < 2:  # noqa: PLR2004 - one bin is like itself
        return Significance(statistic=None, p=None)
    table = np.stack([kept[some], refused[some]])
    if (table.sum(axis=1) == 0).any():
        return Significance(statistic=None, p=None)
    found = stats.chi2_contingency(table, correction=False)
    return Significance(
        statistic=float(found.statistic), degrees=int(found.dof), p=float(found.pvalue)
    )
