"""The pair's tokenizer: byte-level BPE, so that any text at all can be written and read back.

Entry 0 is `<|endoftext|>`. It stands before every document and thereby between any two, and it is
both the beginning and the end of a sequence: encoding a prompt puts it in front.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pearl.actors.pair.corpus import Document

END: Final = "<|endoftext|>"
END_ID: Final = 0


def learned(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """A byte-level BPE of `vocabulary` entries, learned from these texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A {END} $B", special_tokens=[(END, END_ID)]
    )
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path, positions: int) -> None:
    """Write the files that `AutoTokenizer.from_pretrained` reads."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=positions,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)


def encoded(tokenizer: Tokenizer, documents: Iterable[Document]) -> NDArray[np.uint16]:
    """All documents as one stream of tokens, each beginning with END."""
    texts = [document.text for document in documents]
    encodings = tokenizer.encode_batch_fast(texts)
    return np.fromiter(chain.from_iterable(item.ids for item in encodings), dtype=np.uint16)
