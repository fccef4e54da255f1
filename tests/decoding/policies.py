"""Fixed policies, as a schedule that is made by hand takes them."""

from __future__ import annotations

from typing import Final

from pearl.decoding.policies import FixedPolicy

AUTOREGRESSIVE: Final = FixedPolicy()


def speculative(gamma: int) -> FixedPolicy:
    return FixedPolicy(before=gamma)


def pearl(gamma: int, head_start: int = 0) -> FixedPolicy:
    return FixedPolicy(before=head_start, beside=gamma)
