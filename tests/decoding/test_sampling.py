"""The filters, against a slow reading of their definition and against transformers' own."""

from __future__ import annotations

import itertools
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pearl.decoding.errors import SettingError
from pearl.decoding.sampling import Sampling

SAMPLINGS: Final = [
    Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for temperature, top_k, top_p, min_p in itertools.product(
        (0.3, 0.7, 1.0, 1.8), (0, 1, 5, 50), (1.0, 0.9, 0.3, 0.01), (0.0, 0.05, 0.5, 1.0)
    )
]


def slow_law(logits: list[float], sampling: Sampling) -> list[float]:
    """Token by token, in the words of the docstring of `Sampling`."""
    scaled = [logit / sampling.temperature for logit in logits]
    kth = sorted(scaled, reverse=True)[min(sampling.top_k or len(scaled), len(scaled)) - 1]
    weights = [np.exp(s - max(scaled)) if s >= kth else 0.0 for s in scaled]
    law = [weight / sum(weights) for weight in weights]
    likelier = [sum(other for other in law if other > one) for one in law]
    law = [one if sampling.top_p == 1 or above < sampling.top_p else 0.0
           for one, above in zip(law, likelier, strict=True)]  # fmt: skip
    law = [one if one >= sampling.min_p * max(law) else 0.0 for one in law]
    return [float(one / sum(law)) for one in law]


def transformers_law(logits: Any, sampling: Sampling) -> Any:
    """What `generate` would draw from, its warpers being made and ordered as it does."""
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    warpers = [transformers.TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        warpers.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(transformers.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(transformers.MinPLogitsWarper(sampling.min_p))
    scores = torch.from_numpy(logits)
    for warper in warpers:
        scores = warper(None, scores)
    return torch.softmax(scores, dim=-1).numpy()


def test_every_combination_of_filters_agrees_with_transformers() -> None:
    """A user who moves here from `generate` samples from the same law."""
    logits = np.random.default_rng(1).normal(scale=2.0, size=(8, 200))
    for sampling in SAMPLINGS:
        law = sampling.laws(logits)

        np.testing.assert_allclose(law, transformers_law(logits, sampling), rtol=0, atol=1e-12)


def test_every_combination_of_filters_agrees_with_its_definition() -> None:
    logits = np.random.default_rng(2).normal(scale=2.0, size=60)
    for sampling in SAMPLINGS:
        law = sampling.laws(logits)

        np.testing.assert_allclose(law, slow_law(logits.tolist(), sampling), rtol=0, atol=1e-12)


@given(
    logits=st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=8),
    sampling=st.sampled_from(SAMPLINGS),
)
def test_a_law_does_not_depend_on_the_order_of_tokens(
    logits: list[float], sampling: Sampling
) -> None:
    """Ties are kept together, so two devices that sort differently have the same law."""
    law = sampling.laws(np.array(logits))
    mirrored = sampling.laws(np.array(logits[::-1]))[::-1]

    np.testing.assert_allclose(law, mirrored, atol=1e-12)
    assert law.sum() == pytest.approx(1)
    assert law[int(np.argmax(logits))] > 0


def test_impossible_tokens_stay_impossible() -> None:
    """A logit of minus infinity is a mask, and masks survive the filters."""
    law = Sampling(temperature=1.0, top_k=3, top_p=0.9, min_p=0.01).laws(
        np.array([-np.inf, 1.0, -np.inf, 0.0])
    )

    assert law[0] == law[2] == 0
    assert law.sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_law_has_the_type_of_its_logits(kind: type[Any]) -> None:
    """Draft and target must round alike, so no filter may widen one of them."""
    law = Sampling(temperature=0.7, top_k=3, top_p=0.9, min_p=0.01).laws(np.ones((2, 5), kind))

    assert law.dtype == kind
    assert law.shape == (2, 5)


def test_numpy_and_torch_warp_alike() -> None:
    torch: Any = pytest.importorskip("torch")
    logits = np.random.default_rng(3).normal(size=(4, 50))
    for sampling in SAMPLINGS:
        theirs = sampling.laws(torch.from_numpy(logits)).numpy()

        np.testing.assert_allclose(sampling.laws(logits), theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [1e-3, 1e-30])
def test_a_tiny_temperature_is_nearly_greedy_and_still_a_law(temperature: float) -> None:
    """The exponential is taken of differences to the largest, so it does not overflow."""
    law = Sampling(temperature=temperature).laws(np.array([100.0, 300.0, 200.0]))

    np.testing.assert_array_equal(law, [0, 1, 0])


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", -0.1, "0 or more"),
        ("temperature", float("nan"), "0 or more"),
        ("temperature", float("inf"), "0 or more"),
        ("top_k", -1, "0 (keep all) or a positive whole number"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.5, "above 0 and at most 1"),
        ("min_p", -0.1, "from 0 to 1"),
        ("min_p", 1.1, "from 0 to 1"),
    ],
)
def test_a_refusal_names_the_setting_its_value_and_what_is_allowed(
    name: str, value: float, allowed: str
) -> None:
    asked: dict[str, Any] = {name: value}

    with pytest.raises(SettingError) as refusal:
        Sampling(**asked)
    assert str(refusal.value) == f"{name.replace('_', '-')} is {value}; it must be {allowed}"
