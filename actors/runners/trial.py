"""What a new runner is tried with: a few tokens, in every way that it may read them.

No list of architectures says which models can be rolled back, read in rows of different length,
recorded, written out, or given the length of a text. So each of these is done with some tokens and
compared with the model's plain forward over them.

May import: torch, actors.runners.
Must never: change what a runner does; it is left without rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, final

import torch
from torch import Tensor

from pearl.actors.runners.interface import Feed, Runner
from pearl.decoding.errors import ModelError

if TYPE_CHECKING:
    from pearl.actors.runners.lengths import LengthBorders

TOKENS: Final = 12
ACROSS: Final = 256
"""A text up to a border of so many positions is read as a whole."""
FAR: Final = 1 << 17
"""Positions; where there is no longest, far enough."""

BROKEN: Final = (ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError)
"""What a model raises that is read in a way it does not know."""


class NewRunner(Runner, Protocol):
    """A runner that is new."""

    @property
    def takes_positions(self) -> bool:
        """Whether its model takes the position of each token."""
        ...

    def forget(self) -> None:
        """Free all rows, hold no memory, and count from 0."""
        ...


@final
class RunnerTrial:
    """A model, the runner that is to be made of it, and tokens that both read."""

    def __init__(self, model: Any, runner: NewRunner) -> None:
        self.model = model
        self._runner = runner
        self._tokens = self._text(min(TOKENS, runner.positions))
        self._expected: Tensor | None = None  # the model may be emptied once this is known
        self.error = ""
        """What the model said where the last trial could not read on; empty where it could."""
        self.same_bits = False
        """Whether the last trial gave a token the same bits however it was read."""

    def shorten(self, length: int) -> None:
        """Read no more tokens than that."""
        self._tokens, self._expected = self._tokens[:length], None

    def forward(self) -> Tensor:
        """Logits (tokens, vocab) of the model's plain forward."""
        return self._plain(self._tokens)

    def agrees(
        self, *, together: bool = False, replays: bool = False, singly: bool = False
    ) -> bool:
        """Whether tokens read with a rollback, in rows of their own, get the plain logits.

        Args:
            together: two rows are read in one pass too, and not only each of them alone.
            replays: shapes are recorded, so one of them is read at several places.
            singly: tokens are read one by one, too.
        """
        runner, tokens = self._runner, self._tokens
        if self._expected is None:
            self._expected = self._plain(tokens)
            self._refuse_nothing(self._expected)
        plain = self._expected
        rows = [runner.allocate(len(tokens)) for _ in range(3)]
        half = len(tokens) // 2
        stands = half + 1
        wrong = [*tokens[:stands], *tokens[:2]][: len(tokens)]
        first = [_feed(rows[0], 0, wrong), _feed(rows[2], 0, tokens[:half])]
        # Another start, another length, another end, and an idle row between.
        then = [
            _feed(rows[0], half - 1, tokens[half - 1 :]),
            _feed(rows[2], half, tokens[half : max(half + 1, len(tokens) - 2)]),
        ]
        # Replays of one shape at several places: they must not remember where it was recorded.
        several = replays or singly
        ends = range(half if several else len(tokens) - 1, len(tokens))
        last = [_feed(rows[0], at, tokens[at : at + 1]) for at in ends]
        groups = [[feed] for feed in (*first, *then, *last)]
        if together:
            places = [[_feed(row, 0, tokens[:1])] for row in rows[:2]]
            groups = [*places, first, then, *groups]
        found = self._read(groups)
        if found is None:
            return False
        read = [
            (feed.start, logits[:stands] if feed.tokens is wrong else logits)
            for feed, logits in found
        ]
        self.same_bits = _equal_bits(read)
        # Together: the spread of a single position's logits may be small by chance.
        expected = [plain[start : start + len(logits)] for start, logits in read]
        return _close(torch.cat([logits for _, logits in read]), torch.cat(expected))

    def _refuse_nothing(self, plain: Tensor) -> None:
        """Say of a model that gives no numbers that it gives none.

        Raises:
            ModelError: there is nothing to compare with.
        """
        if not plain.isfinite().any():
            what = "NaN" if plain.isnan().any() else "infinities"
            raise ModelError(
                f"{type(self.model).__name__} gives {what} for any text; its weights are damaged, "
                f"or too large for {str(plain.dtype).removeprefix('torch.')}"
            )

    def check_length(self, lengths: LengthBorders | None) -> None:
        """See that how long a text is changes nothing, or only what is known.

        A token far behind the others says that the text is long. Where that changes the others,
        the rotation must be the reason, and telling it must do the same.

        Raises:
            ModelError: it does not.
        """
        far = self._far()
        if lengths is not None:
            lengths.tell(len(lengths.borders))
        told = self.forward()
        if lengths is not None:
            lengths.tell(0)
        right = far is None or _close(far, told)
        if lengths and right:
            right = all(self._agrees_across(border) for border in lengths.borders)
        if not right:
            raise ModelError(
                f"{type(self.model).__name__} gives other logits to the same tokens where a text "
                "is long, and not by its rotation alone, so what it computes would depend on who "
                "else is read; choose a model whose positions do not change with the length"
            )

    def _agrees_across(self, border: int) -> bool:
        """Whether a window across a border is the plain forward on either side of it."""
        if border > ACROSS or border + 2 > self._runner.positions:
            return True
        tokens = self._text(border + 2)
        row = self._runner.allocate(len(tokens))
        window = _feed(row, border - 1, tokens[border - 1 :])
        read = [[_feed(row, 0, tokens[: border - 1])], [window], [window]]
        expected = [self._plain(tokens[:end])[-1:] for end in range(border, border + 3)]
        found = self._read(read)
        return found is not None and all(
            _close(logits, torch.cat(expected)) for _, logits in found[1:]
        )

    def _read(self, groups: Sequence[list[Feed]]) -> list[tuple[Feed, Tensor]] | None:
        """What the runner gives for the feeds; None if it cannot read them."""
        found: list[tuple[Feed, Tensor]] = []
        self.error = ""
        try:
            for group in groups:
                found += zip(group, self._runner.forward(group), strict=True)
        except BROKEN as error:
            self.error = str(error).partition("\n")[0] or type(error).__name__
            return None
        finally:
            self._runner.forget()
        return found

    def _far(self) -> Tensor | None:
        """Plain logits of the tokens when another one follows at the last position there is."""
        last = min(self._runner.positions, FAR) - 1
        if not self._runner.takes_positions or last <= len(self._tokens):
            return None
        places = torch.tensor([[*range(len(self._tokens)), last]], device=self.model.device)
        return self._plain([*self._tokens, 0], position_ids=places)[:-1]

    def _plain(self, tokens: list[int], **options: Any) -> Tensor:
        ids = torch.tensor([tokens], device=self.model.device)
        logits: Tensor = self.model(input_ids=ids, use_cache=False, **options).logits
        return logits[0, :, : self._runner.vocab_size]

    def _text(self, length: int) -> list[int]:
        return [(7 * i + 3) % self._runner.vocab_size for i in range(length)]


def _feed(row: int, start: int, tokens: list[int]) -> Feed:
    return Feed(row=row, start=start, tokens=tokens, logits=len(tokens))


def _equal_bits(read: list[tuple[int, Tensor]]) -> bool:
    """Whether logits of the same positions, from where they begin, are equal to the last bit."""
    first: dict[int, Tensor] = {}
    return all(
        torch.equal(first.setdefault(start + i, line), line)
        for start, logits in read
        for i, line in enumerate(logits)
    )


def _close(logits: Tensor, plain: Tensor) -> bool:
    """Whether two ways to compute logits (tokens, vocab) are the same but for rounding.

    Rounding in 16 bits moves logits by a few per cent of their spread; a wrong mask or position by
    about as much as their spread. What is no number, a mask of minus infinity above all, must be
    the same.
    """
    rounding = 1e-3 if plain.dtype == torch.float32 else 0.2
    known = plain.isfinite()
    if not torch.equal(known, logits.isfinite()):
        return False
    found, expected = logits[known], plain[known].float()
    spread = expected.std(correction=0).clamp(min=1e-6)
    return bool((found - expected).square().mean().sqrt() < rounding * spread)
