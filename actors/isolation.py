"""One request is one request: whatever goes wrong in a pass fails the one that caused it.

Many requests share a pass, so an error in it does not say which one caused it. Then each of them is
worked on alone: those that fail alone end with the reason. What a row held when a pass over it
failed is read again; until then, which may take some turns, its request stays apart.

Some errors take the device with them (a kernel that ran outside its memory ends a GPU's context).
So after a failure the model must still read one token; a device that cannot is raised as dead, to
be started again, and the scheduler finds the request that killed it by running those that were
under way one by one (`pearl.actors.stations`).

May import: decoding, actors.wire, actors.runners.interface, actors.transcripts.
Must never: know what the work is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from pearl.actors.runners.interface import Feed, Runner
from pearl.actors.transcripts import Transcripts
from pearl.actors.wire import JobDone, Spoilt
from pearl.decoding.errors import PearlError, PeerError, PlacementError, PromptError

Work: TypeAlias = Callable[[Sequence[int]], list[JobDone | Spoilt]]

LONGEST_REASON: Final = 500  # characters


def isolated(
    requests: Sequence[int], work: Work, transcripts: Transcripts, name: str
) -> list[JobDone | Spoilt]:
    """Work on all requests at once, but for those that are apart; where that fails, on each apart.

    Args:
        requests: at least one.
        work: changes nothing before all of it has succeeded.
        name: of the device, for its complaints.
    """
    apart = [request for request in requests if request in transcripts.apart]
    together = [request for request in requests if request not in transcripts.apart]
    said: list[JobDone | Spoilt] = []
    # Whatever a model raises, SystemExit too: nobody sends this thread anything else.
    try:
        if together:
            said += work(together)
    except BaseException as error:  # noqa: BLE001
        if len(together) == 1:
            said.append(spoilt(together[0], error, name))
        else:
            transcripts.distrust(together)
            apart += together
    for request in apart:
        try:
            said += work([request])
        except BaseException as error:  # noqa: BLE001 - as above
            said.append(spoilt(request, error, name))
    return said


def spoilt(request: int, error: BaseException, name: str) -> Spoilt:
    """The end of a request, with its reason."""
    crowded = isinstance(error, PlacementError | PromptError)
    return Spoilt(request=request, message=complaint(name, error), crowded=crowded)


def complaint(name: str, error: BaseException) -> str:
    """One line that says which device failed, and how."""
    how = "failed" if isinstance(error, PearlError) else f"failed with {type(error).__name__}"
    reason = " ".join(str(error).split())[:LONGEST_REASON]
    return f"the {name} {how}: {reason}" if reason else f"the {name} {how}"


def must_read(runner: Runner, name: str) -> None:
    """Raise unless the model reads a token.

    Raises:
        PeerError: it does not; nothing that is asked of this device will succeed.
    """
    row = None
    try:
        row = runner.allocate(1)
        runner.forward([Feed(row=row, start=0, tokens=[0], logits=1)])
    except PlacementError:
        pass  # a device that is full is not dead
    except BaseException as error:
        message = f"{complaint(name, error)}, and can read nothing any more"
        raise PeerError(message) from error
    finally:
        if row is not None:
            runner.release(row)
