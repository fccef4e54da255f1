"""Every error this project raises on purpose, as one tree.

PearlError
├── UsageError                 what was asked for cannot be done; the message says the way out
│   ├── SettingError           "gamma is 0; it must be a whole number from 1 to 256, or auto"
│   ├── PromptError            "the prompt has 2100 tokens, the target leaves room for 1920"
│   ├── ModelError             "models/x holds only pickled weights; convert them to safetensors"
│   ├── PairError              "draft has 32000 tokens in its vocabulary, target 151936; ..."
│   ├── PlacementError         "2 GPUs asked for, 0 present; ..."
│   └── MalformedTraceError    "run.json, line 7: not a trace event: JSON is malformed: ..."
├── ProtocolError              local misuse: the caller broke the order of the protocol
│   └── ImpossibleDraftError   "token 17 has draft probability 0.0; it cannot have been drafted"
├── LogitsError                a model gave no law: "the logits at position 17 hold NaN"
├── StorageError               "run.json cannot be written: No space left on device"
└── PeerError                  the other side failed: a device or the scheduler died or timed out

The command line turns a `UsageError` into one line on standard error and exit code 2, the others
into one line and exit code 1. Anything outside this tree is the system's (memory, files), or a bug.
"""

from __future__ import annotations


class PearlError(Exception):
    """Root of the tree."""


class UsageError(PearlError):
    """What was asked for cannot be done; the message names the value and the way out."""


class SettingError(UsageError):
    """A setting is outside its range."""


class PromptError(UsageError):
    """The prompt is no text and no tokens, is empty, or too long for the pair."""


class ModelError(UsageError):
    """A model cannot be found or loaded."""


class PairError(UsageError):
    """Draft and target do not fit together."""


class PlacementError(UsageError):
    """The machine or the cluster lacks what was asked for."""


class MalformedTraceError(UsageError):
    """A file is not a trace, or a trace does not say what it is read for."""


class ProtocolError(PearlError):
    """The caller broke the order of the protocol."""


class ImpossibleDraftError(ProtocolError):
    """A token was offered that its draft cannot have drawn."""


class LogitsError(PearlError):
    """What a model gave for a position is no law: NaN, plus infinity, or no possible token."""


class StorageError(PearlError):
    """A file cannot be written; what stood there before is as it was."""


class PeerError(PearlError):
    """A device or the scheduler died or did not answer in time."""
