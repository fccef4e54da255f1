"""The scheduler's watchdog: every wait has a deadline.

May import: the standard library, decoding, actors.dispatch, actors.peers, actors.stations,
actors.wire.
Must never: send anything.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from typing import TYPE_CHECKING, Any, Final, final

from pearl.actors.wire import BEAT_S, MISSED_BEATS, Hello
from pearl.decoding.messages import TARGET, Role
from pearl.decoding.sampling import refuse_unless

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pearl.actors.dispatch import Dispatch
    from pearl.actors.peers import Peer
    from pearl.decoding.messages import Device

CHECK_EVERY_S: Final = 0.1
OVERSLEPT_S: Final = 0.5  # a watchdog that is so late has not watched
SILENCE_S: Final = BEAT_S * MISSED_BEATS
WITHOUT_END: Final = 10  # times a deadline: no wait is longer, whatever is served meanwhile

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait, in seconds, before going on without; longer jobs are given more.

    Args:
        draft: for a window; the request then goes on alone until the draft has caught up.
        target: for a verdict; the request then fails.
        restart: for a lost target to come back; its requests then fail.
    """

    draft: float = 1.0
    target: float = 300.0
    restart: float = 120.0

    def __post_init__(self) -> None:
        """Refuse what is no time."""
        for name in ("draft", "target", "restart"):
            refuse_unless(self, name, "seconds, more than 0", fine=is_time(getattr(self, name)))


def is_time(value: Any) -> bool:
    """Whether it is a number of seconds to wait."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and bool(value > 0)


@final
class Deadlines:
    """Looks again and again, and gives up on what has taken too long.

    Args:
        dispatch: whose requests and devices they are.
        peers: the connections.
        restart: ends and restarts a silent device; None where that cannot be done.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        peers: Collection[Peer],
        patience: Patience,
        restart: Callable[[Hello], None] | None,
    ) -> None:
        self._dispatch = dispatch
        self._peers = peers
        self._patience = patience
        self._restart = restart
        self._opened_at = time.monotonic()

    async def watch(self) -> None:
        """Until cancelled."""
        last = self._opened_at = time.monotonic()
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            now = time.monotonic()
            if now - last > CHECK_EVERY_S + OVERSLEPT_S:
                self._overslept(now - last)
            last = now
            try:
                self.check(now)
            except Exception:  # without it no deadline would be kept any more
                log.exception("the watchdog failed, and goes on")

    def check(self, now: float) -> None:
        """Give up on what has taken too long."""
        for peer in list(self._peers):
            self._check_peer(peer, now)
        dispatch = self._dispatch
        target = dispatch.stations[TARGET]
        lost_at = target.lost_at or self._opened_at
        if not target.usable and dispatch.running and now - lost_at > self._patience.restart:
            why = target.fault or "it was not restarted in time"
            dispatch.fail_all(f"the target died and did not come back: {why}")
        for device, station in dispatch.stations.items():
            if station.usable:
                self._check_jobs(device, now)
                self._check_suspect(device, now)

    def _overslept(self, seconds: float) -> None:
        """No peer was heard meanwhile because this process did not listen."""
        for peer in self._peers:
            peer.heard += seconds
        for running in self._dispatch.running.values():
            for device, asked in running.waiting.items():
                running.waiting[device] = asked._replace(since=asked.since + seconds)

    def _check_peer(self, peer: Peer, now: float) -> None:
        device = None if peer.hello is None else peer.hello.device
        if device is None:  # a stranger, or a client
            if peer.is_flooded() or peer.is_late(now):
                peer.cut()
        elif peer.is_late(now) and self._dispatch.stations[device].peer is peer:
            self._dispatch.lose(device, f"no sign of life for {SILENCE_S:g} s")
            overdue = peer.has_worked and now - peer.heard > 2 * SILENCE_S
            if overdue and self._restart is not None and peer.hello is not None:
                peer.heard = now  # it has so long to be restarted
                self._restart(peer.hello)

    def _check_jobs(self, device: Device, now: float) -> None:
        dispatch = self._dispatch
        station, using = dispatch.stations[device], dispatch.using(device)
        waiting = [running for running in using if device in running.waiting]
        tokens = sum(running.waiting[device].tokens for running in waiting)
        patience = max(getattr(self._patience, device.role), station.patience(tokens))
        if device.role is Role.DRAFT:
            if any(now - running.waiting[device].since > patience for running in waiting):
                dispatch.lose(device, f"no window within {patience:g} s")
            return
        for running in waiting:
            # While it answers others this one may wait for memory, but not for ever.
            since = running.waiting[device].since
            idle = now - max(since, station.answered_at)
            if idle > patience or now - since > WITHOUT_END * patience:
                dispatch.fail(running, f"no verdict within {patience:g} s")

    def _check_suspect(self, device: Device, now: float) -> None:
        """Do not wait for a suspect that has no job for the device."""
        station = self._dispatch.stations[device]
        if station.suspects and now - station.suspect_since > SILENCE_S:
            running = self._dispatch.running[station.suspects[0]]
            if device not in running.waiting:
                self._dispatch.clear(running, device)
