"""The figures of several requests together, each with its interval over requests.

    over_requests([result.metrics for result in results]).tokens_per_target_pass

Ratios are ratios of sums, so long requests count for more; intervals are for other requests like
these. Real and simulated requests are summed up alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pearl.decoding.estimates import Estimate, of_mean, of_part, of_ratio
from pearl.decoding.metrics import Metrics


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What is said of one system; the names are those of `pearl.decoding.metrics.Metrics`.

    Args:
        tokens_per_s: tokens of all requests over their times.
        over_ar: of those that know it.
    """

    tokens_per_s: Estimate
    time_to_first_token_s: Estimate
    over_ar: Estimate
    tokens_per_target_pass: Estimate
    acceptance_rate: Estimate
    draft_idle: Estimate
    target_idle: Estimate
    wasted: Estimate
    control_us_per_round: Estimate


def over_requests(metrics: Sequence[Metrics]) -> Figures:
    """The figures of requests that ran one after the other."""
    seconds = [m.seconds for m in metrics]
    tokens = [m.tokens for m in metrics]
    kept = [m.kept for m in metrics]
    steps = [m.draft_steps for m in metrics]
    control = [m.control_us_per_round for m in metrics if m.control_us_per_round is not None]
    return Figures(
        tokens_per_s=of_ratio(tokens, seconds),
        time_to_first_token_s=of_mean([m.time_to_first_token_s for m in metrics]),
        over_ar=of_ratio(
            [m.over_ar * m.seconds for m in metrics if m.over_ar is not None],
            [m.seconds for m in metrics if m.over_ar is not None],
        ),
        tokens_per_target_pass=of_ratio(tokens, [m.target_passes for m in metrics]),
        acceptance_rate=of_part(kept, [m.kept + m.rejections for m in metrics]),
        draft_idle=of_part([m.draft_idle * m.seconds for m in metrics], seconds),
        target_idle=of_part([m.target_idle * m.seconds for m in metrics], seconds),
        wasted=of_part([m.draft_steps - m.kept for m in metrics], steps),
        control_us_per_round=of_mean(control),
    )
