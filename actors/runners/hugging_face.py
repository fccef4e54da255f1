"""A runner for any decoder that transformers' `AutoModelForCausalLM` loads.

Theory of operation. Every call of `forward` becomes one pass of the model wherever it can:

  one row     The usual case: a draft writes one token, a target judges one window. The row's keys
              and values are cut to the positions in use, so one token needs no mask at all, and
              several need a slice of a mask made once.
  many rows   Rows are read as one contiguous range of the cache. Shorter feeds are padded on the
              left, so that the last positions, whose logits are wanted, stand together; padding,
              and rows of the range that are not fed, write beyond the end of their row, where
              the mask hides it until it is overwritten.
  few shapes  Where short passes are recorded (`graphs`), as on a GPU, each of them goes the way of
              many rows, rounded up to one of a few shapes.
  two sides   A model that turns positions by the length of the text reads a text on the side of a
              border that it is on (`lengths`).

Rows have a place of their own in the cache and take memory as they are written (`shelves`).

Feeds of very different length go in passes of their own (`passes`), and so do the rows of a model
whose attention takes no positions of rows (position biases made from the shape alone).
Whether it can is not looked up in a list of architectures but tried: a new runner reads a few
tokens in each of the ways above, and compares with the plain forward. A model that cannot even be
rolled back is refused.

May import: torch, transformers.
Must never: load models, sample, print, or change a row that it was not told to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from pearl.actors.runners import memory, trial
from pearl.actors.runners.families import obstacle
from pearl.actors.runners.graphs import STEP_TOKENS, PassShape, RecordedPasses, Recorder, rounded
from pearl.actors.runners.interface import Feed, Room, RunnerStatistics
from pearl.actors.runners.layers import cache_layers, positions_of, stores, windows_of
from pearl.actors.runners.lengths import LengthBorders, lengths_of
from pearl.actors.runners.library import LibraryForward
from pearl.actors.runners.masks import Masks
from pearl.actors.runners.passes import check, line_of, passes, shape_of
from pearl.actors.runners.shelves import CacheRow, Shelf, Shelves
from pearl.actors.runners.written import WrittenForward, round_to_bytes
from pearl.decoding.errors import ModelError, PromptError, ProtocolError


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
        same_rounding: bool | None = None,
        in_bytes: bool = False,
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
            same_rounding: whether a token's logits are to be the same bits whatever stands beside
                it in a pass, where that can be had; None: where it costs next to nothing, which is
                in bfloat16 and in bytes.
            in_bytes: the matrices are rounded to bytes with a scale for each row, and what that
                gives is the model.
        Raises:
            ModelError: its state cannot be rolled back, it fails the comparison above, or is to be
                kept in bytes and cannot be.
        """
        self._config = model.config.get_text_config(decoder=True)
        self._name = type(model).__name__
        self._device = model.device
        width = int(self._config.vocab_size)
        self.vocab_size = width if vocab_size is None else min(vocab_size, width)
        self.positions = positions_of(self._config)
        layers = list(cache_layers(self._config, self._name, stateful=model._is_stateful))  # noqa: SLF001
        library = self._library(model)
        self.takes_positions = library.takes_positions
        self._network: LibraryForward | WrittenForward = library
        self._steps: RecordedPasses | None = None
        self._places = torch.empty(1, 0, dtype=torch.long)  # 0, 1, 2, ... as far as is read
        self._shelves = Shelves(
            library.store,
            self._device,
            self.positions,
            mapped=memory.can_map(self._device),
            moved=self._forget_steps,
        )
        self._rows = self._shelves.rows
        self._passes = self._tokens = self._padding = 0
        self._slower = ""
        self._same_rounding = False
        self._windows = self._windows_of(library, layers)
        self._masks = self._masks_of(library)
        self._lengths: LengthBorders | None = None
        with torch.inference_mode():
            if in_bytes:
                round_to_bytes(model)
            tried = trial.RunnerTrial(model, self)
            self._lengths = lengths_of(model, self.positions, self._name, tried.forward)
            if self._lengths:
                tried.shorten(self._lengths.borders[0])
            self._choose(tried, recorder)
            if recorder is None and self._device.type == "cpu":
                self._write_out(
                    tried, spare=spare, again=again, same=same_rounding, in_bytes=in_bytes
                )
            if in_bytes and isinstance(self._network, LibraryForward):
                raise ModelError(f"quantize is int8, and {self._slower or self._name}")
        if isinstance(self._network, LibraryForward):
            self._network.settle()

    def allocate(self, length: int) -> int:
        """Take the lowest free row."""
        if length > self.positions:
            raise PromptError(
                f"{length} positions asked for; {self._name} holds at most {self.positions}"
            )
        return self._shelves.take()

    def release(self, row: int) -> None:
        """Give a row back, and what memory it has."""
        self._shelves.release(row)

    def room(self, length: int) -> Room:
        """What a sequence would take, what all hold, and what is free."""
        return Room(
            needed=self._shelves.bytes_of(min(length, self.positions)),
            used=self._shelves.bytes,
            free=memory.free_bytes(self._device),
        )

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(
            passes=self._passes,
            tokens=self._tokens,
            padding=self._padding,
            rows=len(self._rows),
            cache_bytes=self._shelves.bytes,
            slower=self._slower,
            same_rounding=self._same_rounding,
        )

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        """Read all feeds, in as few passes as is sensible."""
        for feed in feeds:
            check(feed, self._held(feed.row), self._name, self.positions, self.vocab_size)
        if len(feeds) > 1 and len({feed.row for feed in feeds}) < len(feeds):
            raise ProtocolError(f"rows {[f.row for f in feeds]}: one is fed twice in one call")
        with torch.inference_mode():
            for feed in feeds:
                row, end = self._rows[feed.row], feed.start + len(feed.tokens)
                if end >= row.room:
                    self._make_room(row, end)
            if self._lengths:
                return self._read_by_length(feeds, self._lengths)
            if len(feeds) == 1:
                return [self._read(feeds[0])]
            return self._read_all(feeds)

    def _held(self, number: int) -> int:
        """Tokens that a row holds; where lengths matter, what was read counts, wherever it lies."""
        row = self._rows.get(number)
        if row is None:
            raise ProtocolError(f"row {number} is not in use; in use are {sorted(self._rows)}")
        return len(row.text) if self._lengths else row.held

    def _make_room(self, row: CacheRow, end: int) -> None:
        self._shelves.make_room(row, end)
        reach = self._places.shape[1]
        if row.room > reach:
            reach = max(row.room, 2 * reach)
            self._places = torch.arange(reach, device=self._device)[None]  # (1, reach)
            self._network.reach(reach)

    def _read_by_length(self, feeds: Sequence[Feed], lengths: LengthBorders) -> list[Tensor]:
        """One side of the borders after the other; on each, those feeds that have a part there."""
        stages: dict[int, list[tuple[int, int, int]]] = {}
        for feed in feeds:
            text = self._rows[feed.row].text
            text[feed.start :] = feed.tokens
            for side, cut, wanted in lengths.parts(len(text), feed.logits):
                stages.setdefault(side, []).append((feed.row, cut, wanted))
        found: dict[int, list[Tensor]] = {feed.row: [] for feed in feeds}
        starts = {feed.row: feed.start for feed in feeds}
        for side, parts in sorted(stages.items()):
            lengths.tell(side)
            stage = [self._part(side, part, starts) for part in parts]
            for fed, logits in zip(stage, self._read_all(stage), strict=True):
                found[fed.row].append(logits)
        return [torch.cat(found[feed.row]) for feed in feeds]

    def _part(self, side: int, part: tuple[int, int, int], starts: dict[int, int]) -> Feed:
        """What a row must read to be on a side; all of its text if its keys are of another."""
        number, cut, logits = part
        row = self._rows[number]
        start = min(starts[number], row.held) if row.side == side else 0
        row.side, starts[number] = side, cut
        return Feed(row=number, start=start, tokens=row.text[start:cut], logits=logits)

    def _read_all(self, feeds: Sequence[Feed]) -> list[Tensor]:
        logits: dict[int, Tensor] = {}
        for group in self._groups(feeds):
            if len(group) == 1:
                logits[group[0].row] = self._read(group[0])
            else:
                logits |= self._read_together(group)
        return [logits[feed.row] for feed in feeds]

    def _groups(self, feeds: Sequence[Feed]) -> Iterator[list[Feed]]:
        """Which feeds share a pass: of those on one shelf, those that `passes` puts together."""
        if not self._masks:
            yield from ([feed] for feed in feeds)
            return
        shelves: dict[Shelf | None, list[Feed]] = {}
        for feed in feeds:
            shelves.setdefault(self._rows[feed.row].shelf, []).append(feed)
        for group in shelves.values():
            yield from passes(
                group, lambda feed: self._rows[feed.row].slot, most=self._network.most
            )

    def _read(self, feed: Feed) -> Tensor:
        """One row, in pieces where it is long."""
        tokens = feed.tokens
        if self._steps and len(tokens) <= STEP_TOKENS:
            return self._read_together([feed])[feed.row]
        row = self._rows[feed.row]
        length = self._network.piece
        if len(tokens) <= length:
            return self._read_piece(row, feed.start, tokens, feed.logits)
        parts = []
        for at in range(0, len(tokens), length):
            piece = tokens[at : at + length]
            wanted = max(0, feed.logits - (len(tokens) - at - len(piece)))
            parts.append(self._read_piece(row, feed.start + at, piece, min(wanted, len(piece))))
        return torch.cat(parts)  # (logits, vocab)

    def _read_piece(self, row: CacheRow, start: int, tokens: Sequence[int], logits: int) -> Tensor:
        count = len(tokens)
        end = start + count
        assert row.shelf is not None
        at = self._network.passage
        at.shelf, at.first, at.rows = row.shelf.index, row.slot, 1
        at.start, at.used, at.write = start, self._network.sees(end), None
        mask = self._network.mask(self._masks, start, count) if self._masks else None
        ids = torch.tensor([tokens], device=self._device)  # (1, tokens)
        row.held = start  # what is behind is lost even if the pass fails
        out = self._kept(self._network(ids, self._places[:, start:end], mask, logits))
        row.held = end
        self._tokens += count
        return out[0, out.shape[1] - logits :]  # (logits, vocab)

    def _read_together(self, feeds: Sequence[Feed]) -> dict[int, Tensor]:
        """Many rows of one shelf in one pass; the logits by row."""
        rows = [self._rows[feed.row] for feed in feeds]
        by_slot = {row.slot: feed for row, feed in zip(rows, feeds, strict=True)}
        shelf = rows[0].shelf
        assert shelf is not None
        wanted = shape_of(by_slot)._replace(shelf=shelf.index)
        short = self._steps is not None and wanted.tokens <= STEP_TOKENS
        shape = rounded(wanted, shelf.length) if short else wanted
        slots = range(shape.first, shape.first + shape.rows)
        lines = [line_of(shelf.users[slot], by_slot.get(slot), shape.tokens) for slot in slots]
        shelf.touch(shape.first, shape.rows)
        ids, write = zip(*lines, strict=True)
        # Padding stands where it sees something, or its own garbage could become NaN.
        places = [[min(place, wanted.used - 1) for place in line] for line in write]
        inputs = torch.tensor([ids, write, places])  # (3, rows, tokens)
        for row, feed in zip(rows, feeds, strict=True):
            row.held = feed.start
        out = self._replayed(shape, inputs, wanted.logits) if short else self._ragged(shape, inputs)
        if out is None:
            return self._read_together(feeds)
        for row, feed in zip(rows, feeds, strict=True):
            row.held = feed.start + len(feed.tokens)
        read = sum(len(feed.tokens) for feed in feeds)
        self._tokens += read
        self._padding += shape.rows * shape.tokens - read
        first, width = shape.first, out.shape[1]
        return {f.row: out[slot - first, width - f.logits :] for slot, f in by_slot.items()}

    def _ragged(self, shape: PassShape, inputs: Tensor) -> Tensor:
        """A pass over many rows: logits (rows, at least `shape.logits` tokens, vocab).

        Args:
            inputs: tokens, where each is written, and where it stands, (3, rows, tokens).
        """
        return self._kept(self._run(shape, inputs.to(self._device)))

    def _replayed(self, shape: PassShape, inputs: Tensor, logits: int) -> Tensor | None:
        """The same in a shape that is rounded up, of which the last `logits` tokens count.

        Returns: None where that cannot be recorded, and nothing will be from now on.
        """
        assert self._steps is not None
        try:
            rows = self._steps.take(shape, inputs, self._run)
        except RuntimeError as error:
            self._stop_recording(str(error.__context__ or error).partition("\n")[0])
            return None
        # A copy: the next replay writes over the original, and a host may keep its logits.
        return self._kept(rows[:, shape.tokens - logits :].to(torch.float32, copy=True))

    def _run(self, shape: PassShape, inputs: Tensor) -> Tensor:
        assert self._masks is not None
        ids, write, places = inputs
        rows = torch.arange(shape.rows, device=self._device)[:, None]  # (rows, 1)
        at = self._network.passage
        at.shelf, at.first, at.rows = shape.shelf, shape.first, shape.rows
        # Where the pass starts is told in `places` alone, and this is wrong on purpose: a model
        # that uses it all the same fails its trial, and its rows do not share a pass.
        used = self._network.sees(shape.used)
        at.used, at.start, at.write = used, self.positions, (rows, write)
        mask = self._masks.together(places, used)
        return self._network(ids, places, mask, shape.logits)

    def _kept(self, rows: Tensor) -> Tensor:
        """Of the logits of a pass what counts, in float32."""
        self._passes += 1
        if rows.shape[-1] > self.vocab_size:
            rows = rows[..., : self.vocab_size]
        return rows if rows.dtype == torch.float32 else rows.float()

    def _stop_recording(self, reason: str) -> None:
        self._steps = None
        self._go_slower("without recorded passes", reason)

    def _go_slower(self, how: str, reason: str) -> None:
        self._slower = f"{self._name} runs {how}, which is slower: {reason}"
        logging.getLogger(__name__).warning("%s", self._slower)

    def _forget_steps(self) -> None:
        if self._steps:
            self._steps.forget()

    def _library(self, model: Any) -> LibraryForward:
        layers = cache_layers(self._config, self._name, stateful=model._is_stateful)  # noqa: SLF001
        return LibraryForward(model, [None if stores(it) else it for it in layers])

    def _windows_of(
        self, library: LibraryForward, layers: Sequence[Any]
    ) -> Mapping[str, int | None] | None:
        """For each kind of layer what it sees; None where masks are not ours to make."""
        windows = windows_of(self._config, layers)
        if windows is None or not library.takes_positions:
            return None
        attention = self._config._attn_implementation  # noqa: SLF001 - there is no public name
        if attention not in {"sdpa", "eager"}:
            raise ModelError(
                f"{self._name} uses {attention} attention, which takes no masks of its user's; "
                "load it with attn_implementation sdpa or eager"
            )
        return windows

    def _masks_of(self, network: LibraryForward | WrittenForward) -> Masks | None:
        if self._windows is None:
            return None
        return Masks(
            self._windows,
            additive=self._config._attn_implementation == "eager",  # noqa: SLF001
            dtype=network.score_dtype,
            device=str(self._device),
        )

    def _choose(self, tried: trial.RunnerTrial, recorder: Recorder | None) -> None:
        """Try what the module's docstring promises, and keep what is right.

        Raises:
            ModelError: rolling back and reading on is not the plain forward.
        """
        if self._masks and not tried.agrees(together=True):
            self._masks = None
            self._go_slower("one request a pass", "together they get other logits")
        if not self._masks and not tried.agrees():
            raise ModelError(
                f"{self._name} cannot be rolled back: tokens read again get other logits; "
                "choose a model whose layers are all attention"
            )
        tried.check_length(self._lengths)
        if recorder and self._masks:
            self._steps = RecordedPasses(recorder, self._device)
            if not tried.agrees(together=True, replays=True) and self._steps is not None:
                self._stop_recording("a replay has other logits")

    def _write_out(
        self,
        tried: trial.RunnerTrial,
        *,
        spare: bool,
        again: Callable[[], Any] | None,
        same: bool | None,
        in_bytes: bool,
    ) -> None:
        """Run the model by the forward that is written out, if that gives its logits."""
        if reason := self._obstacle(tried.model, spare=spare or again is not None):
            self._go_slower("by the library", reason)
            return
        if same is None:
            same = in_bytes or tried.model.dtype == torch.bfloat16
        broken = ""
        try:
            written = WrittenForward(
                tried.model, same_rounding=same, in_bytes=in_bytes, take=again is not None
            )
            self._use(written)
            right = tried.agrees(together=True, singly=same)
        except trial.BROKEN as error:
            right, broken = False, str(error)
        if not right:
            self._use(self._library(again() if again else tried.model))
            broken = broken or tried.error
            self._go_slower(
                "by the library",
                f"it cannot be written out ({broken})"
                if broken
                else "written out it gives other logits",
            )
        elif same and not tried.same_bits:
            logging.getLogger(__name__).warning(
                "%s rounds differently for windows and single tokens here", self._name
            )
        else:
            self._same_rounding = same

    def _obstacle(self, model: Any, *, spare: bool) -> str:
        """Why a model cannot be written out; empty if it can."""
        if not self._masks:
            return "its requests cannot share a pass"
        if self._lengths:
            return "it turns positions by the length of the text"
        if not spare:
            return "there is no memory for a second copy of its weights"
        return obstacle(model)

    def _use(self, network: LibraryForward | WrittenForward) -> None:
        """Run the model with this from now on."""
        self._network, self._shelves.store = network, network.store
        self._masks = self._masks_of(network)

    def forget(self) -> None:
        """Free all rows, hold no memory, and count from 0."""
        self._shelves.forget()
        self._places = self._places[:, :0]
        if self._lengths:
            self._lengths.tell(0)
        self._passes = self._tokens = self._padding = 0
