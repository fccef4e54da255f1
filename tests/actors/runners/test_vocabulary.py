"""A draft with other tokens: what is asked of it, and that it never limits its target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pearl.actors.runners.describing import describe
from pearl.actors.runners.interface import Feed, Room, RunnerStatistics
from pearl.actors.runners.vocabulary import TranslatedRunner, Vocabulary, check_pair
from pearl.decoding.errors import PairError
from tests.actors.runners.models import feed
from tests.actors.runners.saved import WORDS, save


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target whose tokenizer has 90 words, and logits for 96."""
    return save(tmp_path_factory.mktemp("vocabularies") / "target", width=96)


def pair(draft: Path, target: Path) -> Vocabulary:
    return check_pair(describe(str(draft)), describe(str(target)))


def test_a_pair_with_one_tokenizer_runs_on_the_tokens_it_has(target: Path, tmp_path: Path) -> None:
    """Qwen2.5 0.5B and 7B are such a pair: their logits are padded to 151,936 and 152,064."""
    wider = save(tmp_path / "wider", width=128)

    assert pair(wider, target) == Vocabulary(size=WORDS)
    assert pair(target, wider) == Vocabulary(size=WORDS)


def test_a_pair_whose_tokens_end_texts_differently_is_accepted(
    target: Path, tmp_path: Path
) -> None:
    """A base model drafts for its chat version; only the target's end counts."""
    chat = save(tmp_path / "chat", width=96, end="word2")

    assert pair(target, chat) == Vocabulary(size=WORDS)


def test_a_token_that_is_special_in_one_of_them_is_the_same_token(
    target: Path, tmp_path: Path
) -> None:
    """Text is written with the target's tokenizer alone."""
    special = save(tmp_path / "special", width=96, special="word7")

    assert pair(special, target) == Vocabulary(size=WORDS)


def test_a_draft_with_fewer_rows_leaves_the_target_all_its_tokens(
    target: Path, tmp_path: Path
) -> None:
    """What the target writes must not depend on who drafts for it."""
    narrow = save(tmp_path / "narrow", width=86)

    found = pair(narrow, target)

    assert found == Vocabulary(size=WORDS, foreign=(86, 87, 88, 89), example="word86")


def test_a_draft_with_more_tokens_drafts_only_those_of_the_target(
    target: Path, tmp_path: Path
) -> None:
    """Nothing at or above the target's last token is ever looked at."""
    longer = save(tmp_path / "longer", width=96, words=WORDS + 3)

    assert pair(longer, target) == Vocabulary(size=WORDS)


def test_a_renamed_token_is_foreign(target: Path, tmp_path: Path) -> None:
    """A reserved token that one of two versions gave a name."""
    renamed = save(tmp_path / "renamed", width=96, renamed={40: "<|im_end|>"})

    assert pair(renamed, target) == Vocabulary(size=WORDS, foreign=(40,), example="word40")


def test_tokens_that_changed_places_are_both_foreign(target: Path, tmp_path: Path) -> None:
    """The same words and the same size are not enough."""
    swapped = save(tmp_path / "swapped", width=96, swap=(5, 6))

    assert pair(swapped, target) == Vocabulary(size=WORDS, foreign=(5, 6), example="word5")


def test_what_is_read_instead_is_a_token_that_both_have(target: Path, tmp_path: Path) -> None:
    """The end of a text says little, unless it is itself one of the foreign ones."""
    known = save(tmp_path / "known", width=96, renamed={5: "start"}, end="word7")
    foreign = save(tmp_path / "foreign", width=96, renamed={7: "start"}, end="start")

    assert pair(known, target).instead == 7
    assert pair(foreign, target).instead == 0


def test_a_draft_of_another_language_is_refused(target: Path, tmp_path: Path) -> None:
    """It would do no harm and no good."""
    small = save(tmp_path / "small", width=96, words=70)

    with pytest.raises(PairError) as refused:
        pair(small, target)

    assert str(refused.value) == (
        f"draft {small} has 70 of the 90 tokens of target {target} (token 70 is absent there, "
        "'word70' here); choose a draft with the target's tokenizer"
    )


class Echo:
    """A runner of a few tokens that notes what it reads; its logits count upwards."""

    vocab_size = 4
    positions = 16

    def __init__(self) -> None:
        self.read: list[Feed] = []
        self.released: list[int] = []

    def allocate(self, length: int) -> int:
        return length

    def release(self, row: int) -> None:
        self.released.append(row)

    def forward(self, feeds: Sequence[Feed]) -> list[Tensor]:
        self.read += feeds
        with torch.inference_mode():
            return [torch.arange(4.0).repeat(feed.logits, 1) for feed in feeds]

    def room(self, length: int) -> Room:
        return Room(needed=length, used=0, free=None)

    def statistics(self) -> RunnerStatistics:
        return RunnerStatistics(passes=1, tokens=2, padding=3, rows=4, cache_bytes=5)


def test_a_translated_draft_never_drafts_what_it_lacks() -> None:
    """Its logits are laid out by the target's ids, since both share their noise by id."""
    draft = TranslatedRunner(Echo(), Vocabulary(size=6, foreign=(1, 4, 5)))

    (logits,) = draft.forward([feed(0, 0, [2, 3], logits=2)])

    never = -torch.inf
    assert draft.vocab_size == 6
    assert logits.tolist() == [[0.0, never, 2.0, 3.0, never, never]] * 2


def test_a_translated_draft_reads_a_token_of_its_own_instead() -> None:
    """Positions stay what they are, so rolling back does too."""
    echo = Echo()
    draft = TranslatedRunner(echo, Vocabulary(size=6, foreign=(1, 4, 5), instead=3))

    draft.forward([feed(0, 2, [1, 2, 5], logits=1), feed(1, 0, [0, 2], logits=0)])

    assert echo.read == [feed(0, 2, [3, 2, 3], logits=1), feed(1, 0, [0, 2], logits=0)]


def test_a_draft_with_more_tokens_than_the_target_is_cut() -> None:
    """The other way round."""
    draft = TranslatedRunner(Echo(), Vocabulary(size=3, foreign=(0,)))

    (logits,) = draft.forward([feed(0, 0, [2], logits=1)])

    assert logits.tolist() == [[-torch.inf, 1.0, 2.0]]


def test_whatever_else_a_translated_draft_is_asked_the_model_answers() -> None:
    """It is a runner like another."""
    echo = Echo()
    draft = TranslatedRunner(echo, Vocabulary(size=6, foreign=(1,)))

    draft.release(draft.allocate(7))

    assert (draft.positions, echo.released) == (16, [7])
    assert draft.statistics() == echo.statistics()
