"""What any training of a small model needs; which models, on what and for how long, others say.

budget    how long one model learns, and how fast
course    one model's training from its first step to its last, through checkpoints
lessons   what it learns from: a text, or other models
crew      several processes that compute one gradient
windows   sequences cut from a stream of tokens, addressed by number
rows      text that a target writes, to learn from
writing   how a model writes many rows at once
models    folders to models
measure   how often a target keeps what a draft proposes, and how well a model predicts a text

May import: torch, transformers, decoding.  Must never: know the embedded pair (`actors.pair`).
"""

from __future__ import annotations
