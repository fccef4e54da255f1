"""The scheduler: drives any number of requests over one draft and one target.

It is the asyncio half of "one protocol, two clocks". This is its door: which peers are connected,
and what each of them may send. Packets go on to `pearl.actors.dispatch`, which drives the requests.

Devices and clients dial in (`pearl.actors.peers`). A connection that ends is a device that is lost;
a device that dials in again gets everything it needs. Every wait has a deadline
(`pearl.actors.deadlines`).

May import: the standard library, decoding, actors.deadlines, actors.dispatch, actors.peers,
actors.wire.
Must never: compute anything of a model, or know about Ray.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import secrets
from typing import TYPE_CHECKING, final

from pearl.actors.deadlines import Deadlines, Patience
from pearl.actors.dispatch import Dispatch
from pearl.actors.peers import MOST_STRANGERS, Peer
from pearl.actors.wire import (
    Abort,
    Address,
    Alive,
    AnyPacket,
    Beat,
    DeviceFailed,
    Failed,
    Hello,
    JobDone,
    Leave,
    Loading,
    Spoilt,
    Submit,
)
from pearl.decoding.errors import PearlError, PeerError
from pearl.decoding.messages import DEVICES, Device
from pearl.decoding.stopping import StopRules

if TYPE_CHECKING:
    from collections.abc import Callable

    from pearl.decoding.text import Detokenizer


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerStatistics:
    """How the scheduler is, at one moment.

    Args:
        running, finished, failed, refused: requests; those that failed had begun.
        devices: that can work now.
        processes: of these.
        losses: times a device that could work was lost.
        restarts: times a device came back as a new process, or on a new connection.
        slower: why a device works by a slower way than it could, by role.
        reasons: the last failures, refusals and losses, a line each.
    """

    running: int
    finished: int
    failed: int = 0
    refused: int = 0
    devices: tuple[Device, ...]
    processes: dict[str, int]
    losses: dict[str, int]
    restarts: dict[str, int] = dataclasses.field(default_factory=dict)
    slower: dict[str, str] = dataclasses.field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@final
class Scheduler:
    """Runs requests; see the top of this file.

    Args:
        devices: the devices that will dial in; without a draft only `ar` can be asked for.
        load_text: gives the detokenizer, which is needed for stop strings only.
        restarts: whether a device that died is restarted.
        patience: deadlines.
        restart: ends and restarts a silent device; None where that cannot be done.
    """

    def __init__(
        self,
        devices: tuple[Device, ...] = DEVICES,
        *,
        load_text: Callable[[], Detokenizer] | None = None,
        restarts: bool = False,
        patience: Patience | None = None,
        restart: Callable[[Hello], None] | None = None,
    ) -> None:
        self._secret = secrets.token_hex(32)
        self._load_text = load_text
        self._text: Detokenizer | None = None
        self._text_lock = asyncio.Lock()
        self._loading: dict[tuple[Peer, int], asyncio.Task[None]] = {}
        self._peers: set[Peer] = set()
        self._changed = asyncio.Event()
        self._dispatch = Dispatch(devices, restarts=restarts, changed=self._changed.set)
        self._deadlines = Deadlines(self._dispatch, self._peers, patience or Patience(), restart)
        self._server: asyncio.Server | None = None
        self._watchdog: asyncio.Task[None] | None = None

    # -- life ----------------------------------------------------------------------------------

    async def open(
        self, host: str = "127.0.0.1", port: int = 0, secret: str | None = None
    ) -> Address:
        """Listen on this interface.

        Args:
            host: the interface's address.
            port: 0 takes a free one.
            secret: what opens the door; None makes one. A scheduler that is restarted takes port
                and secret of the one before, so that its peers find it.
        """
        self._secret = secret or self._secret
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self), host, port)
        self._watchdog = loop.create_task(self._deadlines.watch())
        found: int = self._server.sockets[0].getsockname()[1]
        return Address(host=host, port=found, secret=self._secret)

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait until all devices have loaded their models and dialled in.

        Raises:
            PeerError: one of them could not start, or not in time.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not all(station.usable for station in self._dispatch.stations.values()):
                    self._raise_faults()
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            stations = self._dispatch.stations.items()
            late = " and the ".join(str(device) for device, s in stations if not s.usable)
            message = f"the {late} did not start within {timeout_s:g} s"
            raise PeerError(message) from None

    def loaded(self) -> dict[Device, float]:
        """The share of its weights that each device has read."""
        stations = self._dispatch.stations.items()
        return {device: 1.0 if s.usable else s.read for device, s in stations}

    async def close(self) -> None:
        """Hang up on all peers, for good."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        if self._server is not None:
            self._server.close()
        self._dispatch.fail_all("the scheduler was closed")
        for peer in list(self._peers):
            if peer.hello is not None:
                peer.send([Leave()])
            peer.close()

    def has_given_up(self, device: Device) -> bool:
        """Whether this device has failed to start so often that it is not waited for any more."""
        return self._dispatch.stations[device].dead

    def statistics(self) -> SchedulerStatistics:
        """How it is."""
        dispatch = self._dispatch
        stations = {str(device): station for device, station in dispatch.stations.items()}
        peers = {d: s.peer for d, s in stations.items() if s.usable and s.peer is not None}
        return SchedulerStatistics(
            running=len(dispatch.running),
            finished=dispatch.ended["finished"],
            failed=dispatch.ended["failed"],
            refused=dispatch.ended["refused"],
            devices=tuple(device for device, s in dispatch.stations.items() if s.usable),
            processes={d: peer.hello.process for d, peer in peers.items() if peer.hello},
            losses={device: station.losses for device, station in stations.items()},
            restarts={device: station.restarts for device, station in stations.items()},
            slower={device: s.slower for device, s in stations.items() if s.slower},
            reasons=tuple(dispatch.reasons),
        )

    def _raise_faults(self) -> None:
        for device, station in self._dispatch.stations.items():
            if station.fault is not None:
                raise PeerError(station.fault)
            if station.dead:
                message = f"the {device} ended again and again before it could work"
                raise PeerError(message)

    # -- packets -------------------------------------------------------------------------------

    def take(self, peer: Peer, packet: AnyPacket) -> None:
        """Handle one packet.

        Raises:
            PeerError: the peer is not allowed to say this.
        """
        if peer.hello is None:
            self._welcome(peer, packet)
        elif (device := peer.hello.device) is not None:
            self._take_from_device(peer, packet, device)
        else:
            self._take_from_client(peer, packet)

    def _take_from_device(self, peer: Peer, packet: AnyPacket, device: Device) -> None:
        station = self._dispatch.stations[device]
        match packet:
            case JobDone() | Spoilt() | Alive() if station.peer is not peer:
                pass  # a device that has been replaced
            case JobDone():  # by far the most
                self._dispatch.answer(packet, device)
            case Spoilt():
                self._dispatch.spoilt(packet, device)
            case Alive():
                if packet.slower != station.slower:
                    station.slower = packet.slower
                    self._dispatch.note(f"the {device} is slower than it could be: {packet.slower}")
                peer.has_worked = True
                self._dispatch.regain(device)
            case DeviceFailed():
                station.fault = packet.message
                self._changed.set()
            case Loading():
                station.read = packet.read
            case Beat():
                pass  # its time was noted
            case _:
                raise _out_of_place(packet)

    def _take_from_client(self, peer: Peer, packet: AnyPacket) -> None:
        match packet:
            case Submit():
                self._on_submit(peer, packet)
            case Abort():
                self._on_abort(peer, packet)
            case Beat():
                peer.send([Beat()])
            case JobDone() | Alive():
                pass  # harmless
            case _:
                raise _out_of_place(packet)

    def _welcome(self, peer: Peer, packet: AnyPacket) -> None:
        if not isinstance(packet, Hello) or not self._admits(packet.secret):
            message = "a peer did not say hello with the right secret"
            raise PeerError(message)
        if packet.device is not None and packet.device not in self._dispatch.stations:
            message = f"a {packet.device} dialled in, and none is wanted"
            raise PeerError(message)
        peer.welcome(packet)
        peer.send([Beat()])  # so that it knows that it was let in
        if packet.device is not None:
            self._dispatch.dialled_in(packet.device, peer, again=packet.again)

    def _admits(self, secret: str) -> bool:
        return hmac.compare_digest(secret.encode(), self._secret.encode())

    def dialled(self, peer: Peer) -> None:
        """A connection began; whose it is, its first packet says."""
        self._peers.add(peer)
        if sum(each.hello is None for each in self._peers) > MOST_STRANGERS:
            peer.cut()

    def hung_up(self, peer: Peer) -> None:
        """A connection ended."""
        self._peers.discard(peer)
        if peer.hello is None:
            return
        if peer.hello.device is None:
            for loading in [task for (who, _), task in self._loading.items() if who is peer]:
                loading.cancel()
            for running in self._dispatch.of(peer):
                self._dispatch.forget(running)
        elif self._dispatch.stations[peer.hello.device].peer is peer:
            self._dispatch.gone(peer.hello.device, peer)

    # -- requests ------------------------------------------------------------------------------

    def _on_submit(self, client: Peer, submit: Submit) -> None:
        if submit.settings.stop and self._text is None and self._load_text is not None:
            loading = asyncio.create_task(self._submit_with_text(client, submit, self._load_text))
            self._loading[client, submit.request] = loading
            loading.add_done_callback(lambda _: self._loading.pop((client, submit.request), None))
        else:
            self._begin(client, submit)

    async def _submit_with_text(
        self, client: Peer, submit: Submit, load: Callable[[], Detokenizer]
    ) -> None:
        """Begin a request that needs a detokenizer; loading one takes seconds, so in a thread."""
        try:
            async with self._text_lock:
                self._text = self._text or await asyncio.to_thread(load)
        except Exception as error:  # noqa: BLE001 - a tokenizer's own code may raise anything
            self._dispatch.refuse(client, submit, str(error) or type(error).__name__)
        else:
            self._begin(client, submit)

    def _begin(self, client: Peer, submit: Submit) -> None:
        missing = self._dispatch.missing(submit)
        if missing is None:
            self._dispatch.begin(client, submit, self._stop_rules(submit))
        else:
            self._dispatch.refuse(client, submit, missing)

    def _stop_rules(self, submit: Submit) -> StopRules:
        return StopRules(
            limit=submit.settings.max_new_tokens,
            eos=frozenset(submit.eos),
            strings=submit.settings.stop,
            text=self._text,
        )

    def _on_abort(self, client: Peer, abort: Abort) -> None:
        if (client, abort.request) in self._loading:
            self._loading[client, abort.request].cancel()
            client.send([Failed(request=abort.request, message="interrupted before it began")])
        for running in self._dispatch.of(client):
            if running.submit.request == abort.request:
                client.send([running.finished()])
                self._dispatch.forget(running)


def _out_of_place(packet: AnyPacket) -> PearlError:
    return PeerError(f"{type(packet).__name__} is nothing that a peer may say here")
