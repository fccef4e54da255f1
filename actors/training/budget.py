"""How long a model learns and how fast, and how much one writes for another."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How one model learns: warm up, stay, then let the learning rate fall linearly to zero.

    `minutes` are minutes of training on this machine; `steps`, where given, ends the course instead
    of the clock. `lengths` lists (from which fraction of the budget, tokens in a sequence): most of
    the budget goes into short sequences, the end into long ones, since positions beyond the longest
    trained sequence stay untrained.
    """

    minutes: float
    rate: float
    steps: int | None = None
    warm_up_steps: int = 100
    decay_from: float = 0.6
    tokens_per_step: int = 8192
    parts: int = 4
    checkpoint_every_s: float = 90.0
    lengths: tuple[tuple[float, int], ...] = ((0.0, 256), (0.85, 1024))

    def length(self, progress: float) -> int:
        """Tokens in a sequence after this fraction of the budget."""
        return next(length for start, length in reversed(self.lengths) if progress >= start)

    def rate_at(self, progress: float, step: int) -> float:
        """The learning rate after this fraction of the budget, in update number `step`."""
        decay = min(1.0, (1.0 - progress) / (1.0 - self.decay_from))
        return self.rate * min(1.0, (step + 1) / self.warm_up_steps) * max(0.0, decay)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowBudget:
    """How much a target writes: rows of `length` tokens, `at_once` of them in a batch."""

    tokens: int = 220_000
    length: int = 384
    at_once: int = 192

    @property
    def batches(self) -> int:
        """How many make up the wanted number of tokens."""
        return -(-self.tokens // (self.at_once * self.length))
