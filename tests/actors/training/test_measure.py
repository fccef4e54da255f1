from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pearl.actors.pair import models
from pearl.actors.pair.recipe import LlamaShape
from pearl.actors.training import measure
from pearl.actors.training.measure import OverPrompts
from pearl.actors.training.writing import continued, drawn

TINY = LlamaShape(layers=1, hidden=64, intermediate=64, heads=1)


@pytest.fixture
def laws() -> tuple[Tensor, Tensor]:
    """Two different laws at 40 positions of 50 prompts, as log-probabilities."""
    generator = torch.Generator().manual_seed(5)
    p, q = torch.randn(2, 50, 40, 30, generator=generator).log_softmax(-1)
    return p, q


def test_a_model_agrees_with_itself_under_every_rule() -> None:
    model = models.untrained(TINY, vocabulary=64, positions=64, seed=1).eval()
    texts = measure.written(model, torch.randint(0, 64, (3, 8)), 16, seed=2)

    found = measure.agreement(model, model, texts, 8)

    assert found.greedy.mean.value == found.coupled.mean.value == 1.0
    assert found.rejection.mean.value == pytest.approx(1.0)


def test_coupled_acceptance_lies_between_its_bound_and_rejection(
    laws: tuple[Tensor, Tensor],
) -> None:
    """1 - TV is the best any coupling can do; shared noise reaches (1 - TV) / (1 + TV) at least.

    16,000 matches estimate a mean to 0.004; five of those are allowed.
    """
    p, q = laws
    best = torch.minimum(p, q).exp().sum(-1).mean()
    distance = 1 - best

    coupled = measure._coupled(p, q).mean()

    assert (1 - distance) / (1 + distance) - 0.02 < coupled < best + 0.02


def test_temperature_zero_writes_the_likeliest_token() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(1))

    tokens = drawn(logits, torch.zeros(5), torch.Generator().manual_seed(2))

    assert torch.equal(tokens, logits.argmax(-1))


def test_a_continuation_does_not_depend_on_the_cache() -> None:
    """Reading token by token with a cache must choose what one pass over everything chooses."""
    model = models.untrained(TINY, vocabulary=64, positions=64, seed=1).eval()
    prompts = torch.randint(0, 64, (3, 8), generator=torch.Generator().manual_seed(1))

    rows = continued(model, prompts, 12, torch.zeros(3), torch.Generator())

    again = model(input_ids=rows.clone()).logits.argmax(-1)
    assert torch.equal(rows[:, 8:], again[:, 7:-1])


def test_the_spread_is_over_prompts() -> None:
    """Student's quantile of three degrees of freedom is 3.182."""
    found = OverPrompts.of(torch.tensor([0.2, 0.4, 0.6, 0.8]))
    half = 3.182 * 0.2582 / 2

    assert found.mean.value == pytest.approx(0.5)
    assert (found.lowest, found.highest) == pytest.approx((0.2, 0.8))
    assert found.mean.interval == pytest.approx((0.5 - half, 0.5 + half), abs=1e-3)
