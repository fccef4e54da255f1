"""What theory states of a run, and the evidence that each statement is held against.

Some statements are equalities that need independent acceptance, and the run says whether that
holds; some are bounds, and a run beyond one, by more than its interval, is unlike all that theory
speaks of.

Notation: a acceptance rate, r correlation of neighbouring tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Final

import msgspec

from pearl.analysis import departures, traces
from pearl.analysis.comparison import SLACK, Claim, Comparison, Group, Relation
from pearl.analysis.parameters import own_rates
from pearl.analysis.theory import Assumptions, expected
from pearl.decoding.estimates import Estimate, of_share
from pearl.decoding.settings import Settings

INDEPENDENT: Final = "independent acceptance"


def claims(
    found: Comparison, group: Group, alone: Group | None, assumed: Assumptions | None
) -> tuple[Claim, ...]:
    """Everything that theory states of a system with a draft.

    Args:
        found: what was compared so far.
        group, alone: its requests, and those of the target alone, if it was run.
        assumed: what theory was asked; None where nothing was compared.
    """
    if not found.settings.kind.drafts:
        return ()
    if not found.gamma:  # the target went on alone: there is nothing to say but that
        return tuple(_lossless(group, alone))
    stated = [_most_tokens(found), *_lossless(group, alone)]
    if assumed is not None:
        stated += [_tokens_per_pass(found), _tokens_in_bursts(found, group, assumed)]
        if assumed.kind.parallel:
            stated += _theorem_2(found, group, assumed)
    if found.speedup_over_ar.interval is not None and not traces.overlap(group.requests):
        stated += [_no_faster_passes(found)]
    return tuple(stated)


def _theorem_2(found: Comparison, group: Group, assumed: Assumptions) -> list[Claim]:
    """The mean accepted tokens, in the conventions; all of them follow from one count."""
    a, length, said = float(assumed.acceptance), found.run_length, expected(assumed)
    first = float(length.first_kept)
    rarer = (
        f"behind a rejection {first:.1%} are kept, of all tokens {a:.1%}: acceptance comes in "
        "bursts, or prompts differ, and runs that begin go on for longer"
    )
    oftener = f"behind a rejection {first:.1%} are kept, of all tokens {a:.1%}"
    equal = Claim(
        name="theorem 2, 1/(1 - a) + 1",
        convention="tokens of a run, replacement included, given that pre-verify accepted",
        relation=Relation.EQUAL,
        stated=float(said.emitted_given_preverify),
        measured=length.emitted_given_preverify,
        needs=INDEPENDENT,
        why=rarer if first < a else oftener,
    )
    bound = msgspec.structs.replace(
        equal,
        name="theorem 2 as a bound",
        relation=Relation.AT_LEAST,
        measured=_given_preverify(found, group),
        needs="",
        why=f"{oftener}: rejections are followed by easier tokens than others",
    )
    whole = Claim(
        name="mean run, 1/(1 - a)",
        convention="tokens of a run, replacement included, all runs",
        relation=Relation.EQUAL,
        stated=float(said.emitted_per_run),
        measured=length.emitted,
        needs="that each token was compared",
        why="some tokens were committed that nobody compared",
    )
    return [equal, bound, whole]


def _given_preverify(found: Comparison, group: Group) -> Estimate:
    """The mean run whose first token was kept, by 1 + (a / (1 - a)) / f.

    f is the share of those runs. Its interval is the widest of that over requests, of Wilson's,
    and widened by how little is known of a: few runs that are all alike are no evidence.
    """
    lucks = ["0" + request.luck for request in group.requests]
    hits, misses = (
        sum(a + b == pair for luck in lucks for a, b in itertools.pairwise(luck))
        for pair in ("01", "00")
    )
    rate, share = found.acceptance.independent, of_share(hits, misses)
    a = float(rate)
    if not hits or a == 1 or rate.high is None or share.low is None or share.high is None:
        return Estimate(None)
    over = found.run_length.first_kept.interval or (share.low, share.high)
    low = min(share.low, over[0]) - (rate.high - a)
    odds = a / (1 - a)
    return Estimate(
        1 + odds * (hits + misses) / hits,
        1 + odds / max(share.high, over[1]),
        1 + odds / low if low > 0 else math.inf,
    )


def _tokens_per_pass(found: Comparison) -> Claim:
    per_pass, luck = found.measured.tokens_per_target_pass, found.independence
    return Claim(
        name="tokens per target pass",
        convention="all tokens over all passes",
        relation=Relation.EQUAL,
        stated=found.theory.tokens_per_target_pass,
        measured=per_pass,
        needs=f"{INDEPENDENT}, texts without end",
        why=f"correlation of neighbours {luck.correlation:+.2f}, "
        f"{luck.correlation_within:+.2f} within requests; the factors have it part by part",
    )


def _tokens_in_bursts(found: Comparison, group: Group, assumed: Assumptions) -> Claim:
    """The same with what theory knows beyond independence, at what was measured of it."""
    r = min(max(found.independence.correlation_within, 0.0), 1 - SLACK)
    tokens = passes = 0.0
    for request, rate in zip(group.requests, own_rates(group.requests), strict=True):
        own, n = dataclasses.replace(assumed, acceptance=rate), len(request.tokens)
        tokens += n
        # Passes of a text that ends, times what bursts change in one without end.
        alike, bursts = departures.tokens_in_bursts(own, [0.0, r])
        passes += float(departures.passes_of(own, n) * alike / bursts)
    return Claim(
        name="tokens per target pass, bursts included",
        convention="with each request's own rate and length, and one correlation for all",
        relation=Relation.EQUAL,
        stated=tokens / passes,
        measured=found.measured.tokens_per_target_pass,
        needs="acceptance that is a chain of two states",
        why="agreement depends on more than the token before",
    )


def _most_tokens(found: Comparison) -> Claim:
    """A pass settles what it judges, and a token of its own where that was kept to the end."""
    settings = found.settings
    widest = found.gamma if isinstance(settings.gamma, int) else settings.widest
    most = Assumptions(settings.schedule, 1, widest, head_start=settings.head_start)
    return Claim(
        name="no pass settles more than it judges",
        convention="tokens per target pass",
        relation=Relation.AT_MOST,
        stated=float(max(most.first, most.later)),
        measured=Estimate(found.measured.tokens_per_target_pass.value),
        why="tokens were committed that no pass has judged",
    )


def _no_faster_passes(found: Comparison) -> Claim:
    return Claim(
        name="speed over AR is at most tokens per pass",
        convention="a pass over several tokens is no faster than one over one",
        relation=Relation.AT_MOST,
        stated=float(found.measured.tokens_per_target_pass),
        measured=found.speedup_over_ar,
        why="passes of this system are faster than those of AR",
    )


def _lossless(group: Group, alone: Group | None) -> list[Claim]:
    """Greedy and coupled texts are those of AR with the same seed."""
    if alone is None:
        return []
    pairs = [
        (one, other)
        for one, other in zip(alone.requests, group.requests, strict=False)
        if one.prompt is not None
        and one.prompt == other.prompt
        and _same_question(other.settings, one.settings)
    ]
    if not pairs:
        return []
    same = sum(one.tokens == other.tokens for one, other in pairs)
    return [
        Claim(
            name="lossless",
            convention="requests whose tokens are those of AR",
            relation=Relation.AT_LEAST,
            stated=float(len(pairs)),
            measured=Estimate(float(same)),
            # Traces from files may be of other prompts of the same length.
            needs="traces of the same prompts" if any(one.run for one, _ in pairs) else "",
            why="other tokens; in lower precision than float32 rounding can do that",
        )
    ]


def _same_question(one: Settings, other: Settings) -> bool:
    """Whether both must give the same tokens."""
    if not one.verifier_kind.same_text:
        return False
    asked = [(s.sampling, s.seed, s.max_new_tokens, s.stop) for s in (one, other)]
    return asked[0] == asked[1]
