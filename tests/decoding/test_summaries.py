"""Figures of several requests are those of all their tokens, whatever their lengths."""

from __future__ import annotations

import msgspec
import pytest

from pearl.decoding.estimates import Estimate, of_part, of_ratio
from pearl.decoding.summaries import Figures, over_requests
from tests.decoding.two_requests import LONG, SHORT


def test_long_requests_count_for_more() -> None:
    found = over_requests([SHORT, LONG])

    assert found.tokens_per_s == of_ratio([10, 90], [1, 3])
    assert found.tokens_per_target_pass == of_ratio([10, 90], [5, 30])
    assert found.acceptance_rate == of_part([6, 72], [9, 84])
    assert found.over_ar.value == pytest.approx((1.5 * 1 + 2.0 * 3) / 4)
    assert found.wasted == of_part([14, 48], [20, 120])
    assert found.draft_idle.value == pytest.approx((0.5 * 1 + 0.3 * 3) / 4)
    assert found.target_idle.value == pytest.approx(0.1 / 4)


def test_the_time_to_a_first_token_is_a_mean_over_requests() -> None:
    assert over_requests([SHORT, LONG]).time_to_first_token_s.value == pytest.approx(0.3)


def test_a_request_without_a_median_is_left_out_of_it() -> None:
    found, none = over_requests([SHORT, LONG]), over_requests([LONG])

    assert found.control_us_per_round == Estimate(100.0)
    assert none.control_us_per_round == Estimate(None)


def test_the_figures_of_one_request_are_its_own() -> None:
    """Their names are those of the metrics; of one request there are no intervals."""
    found = over_requests([SHORT])

    for name in Figures.__struct_fields__:
        figure = getattr(found, name)
        assert figure == Estimate(figure.value)
        assert figure.value == pytest.approx(getattr(SHORT, name))


def test_without_a_draft_nothing_is_compared_and_nothing_wasted() -> None:
    alone = msgspec.structs.replace(SHORT, draft_steps=0, kept=0, rejections=0, draft_idle=1.0)

    found = over_requests([alone, alone])

    assert found.acceptance_rate == found.wasted == Estimate(None)
    assert found.draft_idle == Estimate(1.0, 1.0, 1.0)
