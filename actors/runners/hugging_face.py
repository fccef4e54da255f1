"""A runner for any decoder that transformers' `AutoModelForCausalLM` loads.

Theory of operation. Every call of `forward` becomes one pass of the model wherever it can:

  one row     The usual case: a draft writes one token, a target judges one window. The row's keys
              and values are cut to the positions in use, so one token needs no mask at all, and
              several need a slice of a mask made once.
  many rows   Rows are read as one contiguous range of the cache. Shorter feeds are padded on the
              left, so that the last positions, whose logits are wanted, stand together; padding,
              and rows of the range that nobody feeds, write beyond the end of their row, where
              the mask hides it until it is overwritten.
  few shapes  Where short passes are recorded (`graphs`), as on a GPU, each of them goes the way of
              many rows, rounded up to one of a few shapes.

Feeds of very different length go in passes of their own (`passes`), and so do the rows of a model
whose attention cannot be told which row stands where (position biases made from the shape alone).
Whether it can is not looked up in a list of architectures but tried: a new runner reads a few
tokens in each of the ways above, and compares with the plain forward. A model that cannot even be
rolled back is refused.

May import: torch, transformers.
Must never: load models, sample, print, or change a row that it was not told to.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast, final

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from actors.runners.graphs import STEP_TOKENS, Recorder, Shape, Steps, aligned, rounded
from actors.runners.interface import Feed, RunnerStatistics
from actors.runners.library import LibraryForward
from actors.runners.llama import LlamaForward, fits
from actors.runners.masks import Masks
from decoding.errors import ModelError, PromptError, ProtocolError

# A pass reads all weights once, which costs about as much as the arithmetic of some tokens more: so
# much padding is cheaper than another pass, and so many idle rows are.
CHEAP_TOKENS = 16
CHEAP_ROWS = 8

# Longer feeds are read in pieces: the scores and activations of a piece are all that a long prompt
# needs beside its cache.
PIECE = 2048

UNBOUNDED = 1 << 24
"""Positions of a model that has no longest sequence, such as one with linear position biases."""


@final
class HuggingFaceRunner:
    """A transformers model behind `Runner`."""

    def __init__(
        self,
        model: Any,
        *,
        vocab_size: int | None = None,
        spare: bool = True,
        again: Callable[[], Any] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        """Take a loaded model, in evaluation mode, with all its weights on one device.

        Args:
            model: what `AutoModelForCausalLM` returns; its attention is sdpa or eager.
            vocab_size: cut the logits to the first so many tokens. Models pad their logits to a
                round width; no text was ever trained on the padding, and two models that share a
                tokenizer may pad differently, so a pair runs on the tokens it has.
            spare: whether there is memory for a second copy of the weights while one is made.
            again: loads the model once more. With it no memory is needed to spare: weights are
                taken from the model a layer at a time.
            recorder: how short passes are recorded, if this model's can be; None: they are not.
        Raises:
            ModelError: its state cannot be rolled back, or it fails the comparison above.
        """
        self._config = model.config.get_text_config(decoder=True)
        self._name = type(model).__name__
        self._device = model.device
        width = int(self._config.vocab_size)
        self.vocab_size = width if vocab_size is None else min(vocab_size, width)
        self.positions = positions_of(self._config)
        layers = list(cache_layers(self._config, self._name, stateful=model._is_stateful))  # noqa: SLF001
        library = self._library(model)
        self._network: LibraryForward | LlamaForward = library
        self._steps: Steps | None = None
        self._places = torch.empty(1, 0, dtype=torch.long)  # (1, cache length): 0, 1, 2, ...
        self._lengths: dict[int, int] = {}
        self._free: list[int] = []
        self._passes = self._tokens = self._padding = 0
        self._masks = self._masks_of(library, layers, model)
        tokens = [(7 * i + 3) % self.vocab_size for i in range(min(12, self.positions))]
        with torch.inference_mode():
            plain = self._plain(model, tokens)
            self._compare(plain, tokens)
            if recorder and self._masks:
                self._steps = Steps(recorder, self._device)
                if not self._agrees(plain, tokens) and self._steps is not None:
                    self._stop_recording("a replay has other logits")
            elif (spare or again) and self._masks and fits(model):
                self._network = LlamaForward(model, take=again is not None)
                if not self._agrees(plain, tokens):
                    self._network = library = self._library(again() if again else model)
        if self._network is library:
            library.settle()

    def allocate(self, length: int) -> int:
        """Take the lowest free row, so that the rows in use stay close together."""
        if length > self.positions:
            raise PromptError(
                f"{length} positions asked for; {self._name} holds at most {self.positions}"
            )
        row = self._free[0] if self._free else len(self._lengths)
        padding = STEP_TOKENS if self._steps else 0  # what stands behind a row that is full
        self._reserve(rows=row + 1, length=max(length, 1) + padding)
        if self._free:
            heapq.heappop(self._free)
        self._lengths[row] = 0
        return row

    def release(self, row: int) -> None:
        """Give a row back; its memory stays with the cache for the next sequence."""
        self._check_in_use(row)
        del self._lengths[row]
        heapq.heappush(self._free, row)

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(
            passes=self._passes,
            tokens=self._tokens,
            padding=self._padding,
            rows=len(self._lengths),
            cache_bytes=self._network.bytes,
        )

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Read all feeds, in as few passes as is sensible."""
        for feed in feeds:
            self._check(feed)
        with torch.inference_mode():
            if len(feeds) == 1:
                return [self._read(feeds[0])]
            if len({feed.row for feed in feeds}) < len(feeds):
                raise ProtocolError(f"rows {[f.row for f in feeds]}: one is fed twice in one call")
            return self._read_all(feeds)

    def _read_all(self, feeds: Sequence[Feed]) -> list[Tensor]:
        logits: dict[int, Tensor] = {}
        groups = passes(feeds) if self._masks else [[feed] for feed in feeds]
        for group in groups:
            if len(group) == 1:
                logits[group[0].row] = self._read(group[0])
            else:
                logits |= self._read_together(group)
        return [logits[feed.row] for feed in feeds]

    def _read(self, feed: Feed) -> Tensor:
        """One row, in pieces where it is long."""
        tokens = feed.tokens
        if self._steps and len(tokens) <= STEP_TOKENS:
            return self._read_together([feed])[feed.row]
        if len(tokens) <= PIECE:
            return self._read_piece(feed.row, feed.start, tokens, feed.logits)
        parts = []
        for at in range(0, len(tokens), PIECE):
            piece = tokens[at : at + PIECE]
            wanted = max(0, feed.logits - (len(tokens) - at - len(piece)))
            parts.append(
                self._read_piece(feed.row, feed.start + at, piece, min(wanted, len(piece)))
            )
        return torch.cat(parts)  # (logits, vocab)

    def _read_piece(self, row: int, start: int, tokens: Sequence[int], logits: int) -> Tensor:
        count = len(tokens)
        end = start + count
        if end > self._network.length:
            self._reserve(rows=self._network.rows, length=end)
        at = self._network.passage
        at.first, at.rows, at.start, at.used, at.write = row, 1, start, end, None
        mask = self._masks.alone(start, count) if self._masks else None
        ids = torch.tensor([tokens], device=self._device)  # (1, tokens)
        self._lengths[row] = start  # what is behind is lost even if the pass fails
        out = self._kept(self._network(ids, self._places[:, start:end], mask, logits))
        self._lengths[row] = end
        self._tokens += count
        return out[0, out.shape[1] - logits :]  # (logits, vocab)

    def _read_together(self, feeds: Sequence[Feed]) -> dict[int, Tensor]:
        """Many rows in one pass; the logits by row."""
        by_row = {feed.row: feed for feed in feeds}
        wanted = _shape(feeds)
        short = self._steps is not None and wanted.tokens <= STEP_TOKENS
        shape = rounded(wanted) if short else wanted
        rows = range(shape.first, shape.first + shape.rows)
        lines = [self._line(row, by_row.get(row), shape.tokens) for row in rows]
        self._reserve(rows=rows.stop, length=max(max(write) for _, write in lines) + 1)
        ids, write = zip(*lines, strict=True)
        # Padding stands where it sees something, or its own garbage could become NaN.
        places = [[min(place, wanted.used - 1) for place in line] for line in write]
        inputs = torch.tensor([ids, write, places])  # (3, rows, tokens)
        for feed in feeds:
            self._lengths[feed.row] = feed.start
        out = self._replayed(shape, inputs, wanted.logits) if short else self._ragged(shape, inputs)
        if out is None:
            return self._read_together(feeds)
        for feed in feeds:
            self._lengths[feed.row] = feed.start + len(feed.tokens)
        read = sum(len(feed.tokens) for feed in feeds)
        self._tokens += read
        self._padding += shape.rows * shape.tokens - read
        width = out.shape[1]
        return {row: out[row - shape.first, width - feed.logits :] for row, feed in by_row.items()}

    def _line(self, row: int, feed: Feed | None, count: int) -> tuple[list[int], list[int]]:
        """Tokens of a row in a pass of `count` each, and the positions they are written at."""
        if feed is None:
            end = self._lengths.get(row, 0)
            return [0] * count, list(range(end, end + count))
        read = len(feed.tokens)
        end = feed.start + read
        padded = count - read
        # The row's own tokens come last, so that their logits do; the padding's places are behind.
        places = [*range(end, end + padded), *range(feed.start, end)]
        return [0] * padded + list(feed.tokens), places

    def _ragged(self, shape: Shape, inputs: Tensor) -> Tensor:
        """A pass over many rows: logits (rows, at least `shape.logits` tokens, vocab).

        Args:
            inputs: tokens, where each is written, and where it stands, (3, rows, tokens).
        """
        return self._kept(self._run(shape, inputs.to(self._device)))

    def _replayed(self, shape: Shape, inputs: Tensor, logits: int) -> Tensor | None:
        """The same in a shape that is rounded up, of which the last `logits` tokens count.

        Returns: None where that cannot be recorded, and nothing will be from now on.
        """
        assert self._steps is not None
        shape = shape._replace(used=min(shape.used, self._network.length))
        try:
            rows = self._steps.take(shape, inputs, self._run)
        except RuntimeError as error:
            self._stop_recording(str(error.__context__ or error).partition("\n")[0])
            return None
        # A copy: the next replay writes over the original, and a host may keep its logits.
        return self._kept(rows[:, shape.tokens - logits :].to(torch.float32, copy=True))

    def _run(self, shape: Shape, inputs: Tensor) -> Tensor:
        assert self._masks is not None
        ids, write, places = inputs
        rows = torch.arange(shape.rows, device=self._device)[:, None]  # (rows, 1)
        at = self._network.passage
        at.first, at.rows, at.used = shape.first, shape.rows, shape.used
        at.start, at.write = shape.used - shape.tokens, (rows, write)
        mask = self._masks.together(places, shape.used)
        return self._network(ids, places, mask, shape.logits)

    def _kept(self, rows: Tensor) -> Tensor:
        """Of the logits of a pass what counts, in float32."""
        self._passes += 1
        if rows.shape[-1] > self.vocab_size:
            rows = rows[..., : self.vocab_size]
        return rows if rows.dtype == torch.float32 else rows.float()

    def _stop_recording(self, reason: str) -> None:
        self._steps = None
        logging.getLogger(__name__).warning(
            "%s runs without recorded passes, which is slower: %s", self._name, reason
        )

    def _reserve(self, *, rows: int, length: int) -> None:
        if self._steps:
            length = aligned(length)
        if self._network.reserve(rows=rows, length=length):
            length = self._network.length
            self._places = torch.arange(length, device=self._device)[None]  # (1, length)
            if self._steps:
                self._steps.forget()

    def _check(self, feed: Feed) -> None:
        row, start, tokens = feed.row, feed.start, feed.tokens
        held = self._lengths.get(row)
        if held is None:
            self._check_in_use(row)
        elif not 0 <= start <= held:
            raise ProtocolError(f"row {row} holds {held} tokens; a feed cannot start at {start}")
        count = len(tokens)
        if not count or not 0 <= feed.logits <= count:
            raise ProtocolError(
                f"a feed of {count} tokens asks for {feed.logits} logits; it has at least one "
                "token and at most as many logits"
            )
        if start + count > self.positions:
            raise PromptError(
                f"a sequence of {start + count} tokens; {self._name} holds at most {self.positions}"
            )
        # On a GPU a token outside the embedding would end the process, not raise.
        if min(tokens) < 0 or max(tokens) >= self.vocab_size:
            wrong = next(token for token in tokens if not 0 <= token < self.vocab_size)
            raise ProtocolError(
                f"token {wrong} is outside the vocabulary of {self.vocab_size} tokens"
            )

    def _check_in_use(self, row: int) -> None:
        if row not in self._lengths:
            raise ProtocolError(f"row {row} is not in use; in use are {sorted(self._lengths)}")

    def _library(self, model: Any) -> LibraryForward:
        layers = cache_layers(self._config, self._name, stateful=model._is_stateful)  # noqa: SLF001
        return LibraryForward(model, [None if _stores(it) else it for it in layers])

    def _masks_of(self, library: LibraryForward, layers: Sequence[Any], model: Any) -> Masks | None:
        windows = _windows(self._config, layers)
        if windows is None or not library.takes_positions:
            return None
        attention = self._config._attn_implementation  # noqa: SLF001 - there is no public name
        if attention not in {"sdpa", "eager"}:
            raise ModelError(
                f"{self._name} uses {attention} attention, which takes no masks of its user's; "
                "load it with attn_implementation sdpa or eager"
            )
        return Masks(
            windows,
            additive=attention == "eager",
            dtype=model.dtype,
            device=str(self._device),
        )

    def _plain(self, model: Any, tokens: list[int]) -> Tensor:
        """Logits (tokens, vocab) as the model gives them to anybody."""
        ids = torch.tensor([tokens], device=self._device)
        logits: Tensor = model(input_ids=ids, use_cache=False).logits
        return logits[0, :, : self.vocab_size]

    def _compare(self, plain: Tensor, tokens: list[int]) -> None:
        """Try what the module's docstring promises, then forget it.

        Raises:
            ModelError: rolling back and reading on is not the plain forward.
        """
        if self._masks and not self._agrees(plain, tokens):
            self._masks = None
        if not self._masks and not self._agrees(plain, tokens):
            raise ModelError(
                f"{self._name} cannot be rolled back: tokens read again get other logits; "
                "choose a model whose layers are all attention"
            )

    def _agrees(self, plain: Tensor, tokens: list[int]) -> bool:
        """Whether tokens read with a rollback, in rows of their own, get the logits of `plain`.

        Two rows are read together where there are masks for it, and each of them alone.
        """
        rows = [self.allocate(len(tokens)) for _ in range(3)]
        half = len(tokens) // 2
        wrong = [*tokens[: half + 1], *tokens[:2]][: len(tokens)]
        first = [_feed(rows[0], 0, wrong), _feed(rows[2], 0, tokens[:half])]
        # Another start, another length, another end, and an idle row between.
        then = [_feed(rows[0], half - 1, tokens[half - 1 :]), _feed(rows[2], half, tokens[half:-2])]
        # Replays of one shape at several places: they must not remember where it was recorded.
        ends = range(half if self._steps else len(tokens) - 1, len(tokens))
        last = [_feed(rows[0], at, tokens[at : at + 1]) for at in ends]
        groups = [[feed] for feed in (*first, *then, *last)]
        if self._masks:
            groups = [first, then, *groups]
        found: list[tuple[Feed, Tensor]] = []
        try:
            for group in groups:
                found += zip(group, self.forward(group), strict=True)
        except (ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError):
            return False
        finally:
            self._forget()
        return all(
            _close(logits, plain[feed.start : feed.start + len(feed.tokens)])
            for feed, logits in found
            if feed.tokens is not wrong
        )

    def _forget(self) -> None:
        self._network.drop()
        if self._steps:
            self._steps.forget()
        self._lengths.clear()
        self._free.clear()
        self._passes = self._tokens = self._padding = 0


def passes(feeds: Sequence[Feed]) -> list[list[Feed]]:
    """Which feeds share a pass.

    Padding a window to the length of somebody's prompt would cost every request the time of that
    prompt, so feeds are taken from short to long, and a pass is closed before one that has more
    than twice the tokens of its shortest, plus what is cheap. A pass is also closed at a wide gap
    between rows, since the rows of a gap are read as well.
    """
    groups: list[list[Feed]] = []
    for feed in sorted(feeds, key=lambda feed: len(feed.tokens)):
        if groups and len(feed.tokens) <= 2 * len(groups[-1][0].tokens) + CHEAP_TOKENS:
            groups[-1].append(feed)
        else:
            groups.append([feed])
    return [part for group in groups for part in _neighbours(group)]


def positions_of(config: Any) -> int:
    """The longest sequence that a model of this configuration can hold."""
    for name in ("max_position_embeddings", "max_seq_len", "n_positions"):
        if isinstance(found := getattr(config, name, None), int) and found > 0:
            return found
    return UNBOUNDED


def refuse_state(architecture: str) -> ModelError:
    """What to say of a model that carries more than keys and values."""
    return ModelError(
        f"{architecture} carries a recurrent state, which cannot be rolled back after a rejected "
        "token; choose a model whose layers are all attention"
    )


def _neighbours(group: list[Feed]) -> Iterator[list[Feed]]:
    """Cut a group where more than a few rows are idle between two that are fed."""
    part: list[Feed] = []
    for feed in sorted(group, key=lambda feed: feed.row):
        if part and feed.row - part[-1].row > CHEAP_ROWS:
            yield part
            part = []
        part.append(feed)
    yield part


def cache_layers(config: Any, architecture: str, *, stateful: bool) -> Iterator[Any]:
    """The library's own cache layers: which kind each is, and its window."""
    if stateful:
        raise refuse_state(architecture)
    for layer in cast("Any", DynamicCache(config=config)).layers:
        if not _stores(layer) and type(layer).__name__ != "DummyLayer":
            raise refuse_state(architecture)
        yield layer


def _stores(layer: Any) -> bool:
    # By exact name: subclasses of these two keep a state beside the keys and values.
    return type(layer).__name__ in {"DynamicLayer", "DynamicSlidingWindowLayer"}


def _windows(config: Any, layers: Sequence[Any]) -> Mapping[str, int | None] | None:
    """For each kind of layer what it sees; None when its masks are not ours to make."""
    sliding = {layer.sliding_window for layer in layers if getattr(layer, "is_sliding", False)}
    # GPT-Neo keeps its windows to itself, as a table that is right when all rows end together.
    if getattr(config, "attention_types", None):
        return None
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        kinds = {_kind(layer) for layer in layers}
        if getattr(config, "attention_chunk_size", None):
            return None
    if not kinds <= {"full_attention", "sliding_attention"} or len(sliding) > 1:
        return None
    return {kind: next(iter(sliding)) if kind.startswith("s") else None for kind in sorted(kinds)}


def _kind(layer: Any) -> str:
    return "sliding_attention" if layer.is_sliding else "full_attention"


def _shape(feeds: Sequence[Feed]) -> Shape:
    """What one pass must have for all of these."""
    rows = [feed.row for feed in feeds]
    return Shape(
        first=min(rows),
        rows=max(rows) - min(rows) + 1,
        tokens=max(len(feed.tokens) for feed in feeds),
        used=max(feed.start + len(feed.tokens) for feed in feeds),
        logits=max(feed.logits for feed in feeds),
    )


def _feed(row: int, start: int, tokens: list[int]) -> Feed:
    return Feed(row=row, start=start, tokens=tokens, logits=len(tokens))


def _close(logits: Tensor, plain: Tensor) -> bool:
    """Whether two ways to compute logits (tokens, vocab) are the same but for rounding.

    Rounding in 16 bits moves logits by a few per cent of their spread; a wrong mask or position by
    about as much as their spread.
    """
    rounding = 1e-3 if plain.dtype == torch.float32 else 0.2
    spread = plain.float().std().clamp(min=1e-6)
    return bool((logits - plain.float()).square().mean().sqrt() < rounding * spread)
