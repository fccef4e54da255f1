"""The metrics of two requests, one of ten tokens and one of ninety."""

from __future__ import annotations

import msgspec

from pearl.decoding.metrics import Metrics

SHORT = Metrics(
    schedule="pearl",
    verifier="greedy",
    gamma=4,
    tokens=10,
    target_passes=5,
    draft_steps=20,
    drafted=18,
    kept=6,
    rejections=3,
    rounds=5,
    seconds=1.0,
    tokens_per_s=10.0,
    time_to_first_token_s=0.2,
    over_ar=1.5,
    acceptance_rate=6 / 9,
    tokens_per_target_pass=2.0,
    draft_idle=0.5,
    target_idle=0.1,
    wasted=0.7,
    control_us_per_round=100.0,
    draft_losses=0,
    target_losses=0,
    tokens_without_draft=0,
)


LONG = msgspec.structs.replace(
    SHORT,
    tokens=90,
    target_passes=30,
    draft_steps=120,
    kept=72,
    rejections=12,
    seconds=3.0,
    time_to_first_token_s=0.4,
    over_ar=2.0,
    draft_idle=0.3,
    target_idle=0.0,
    control_us_per_round=None,
)
