"""The client process: one link, one trainer, one session; the only place where they meet a clock."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hedgerow_devices import Decision, Governor, Profile, Readings
from hedgerow_edge_client.actions import Action, CancelTraining, Leave, Say, StartTraining
from hedgerow_edge_client.delivery_desk import ANSWERS, ANSWERS_VERSION, DeliveryDesk
from hedgerow_edge_client.device_state import Doing, StateTeller
from hedgerow_edge_client.errors import NameTaken, TrainerCrashed
from hedgerow_edge_client.namesake import INSTANCE, Namesake, Verdict
from hedgerow_edge_client.requests import Progress
from hedgerow_edge_client.session import ClientSession
from hedgerow_edge_client.state import ClientState
from hedgerow_edge_client.task import scan_task
from hedgerow_edge_client.trainer_life import Crashed, Failed, Trained
from hedgerow_edge_client.trainer_process import Description, TrainerProcess
from hedgerow_transport import (
    BrokerUnreachable,
    BrokerUrl,
    Connected,
    Credentials,
    Disconnected,
    Guard,
    Link,
    LinkEvent,
    LinkOverflow,
    MqttLink,
    PacketTooLarge,
    Presence,
    Publication,
    Received,
    Refusals,
    Refused,
    SignedLink,
    SignedWill,
    Topics,
    Will,
    check_name,
    is_sealed,
)

# A trainer that has nothing to do gives its memory back after this time.
TRAINER_IDLE_S = 60.0
# How often the trainer is looked at while it works; far below the time a round takes.
TRAINER_POLL_S = 0.02
LONGEST_SLEEP_S = 1.0
RETRY_S = 5.0
DESCRIBE_TIMEOUT_S = 300.0
# How long a namesake may take to answer before torch is loaded; a later answer counts as well.
NAMESAKE_WAIT_S = 0.3
# How often we answer to messages in our own name, each kind by itself.
NAMESAKE_PAUSE_S = 1.0
# Training that takes longer than this says now and then how far it is.
PROGRESS_PAUSE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """What a client is started with.

    Parameters
    ----------
    task
        The user's task file.
    broker
        ``mqtt://[user:password@]host[:port]``.
    data
        Folder handed to the task's `load_data`; None when the task needs none.
    name
        This device's name, ``[a-z0-9][a-z0-9_-]{0,31}``.
    directory
        Where the client keeps its state.
    namespace
        Topic namespace of the run.
    once
        Leave when the run is over.
    wait_for_broker
        Try again while the broker cannot be reached at the start, instead of giving up.
    threads
        Torch threads; None lets the governor choose.
    credentials
        With which messages are signed and signatures checked; None for neither.
    """

    task: Path
    broker: str
    data: Path | None
    name: str
    directory: Path
    namespace: str = "default"
    once: bool = False
    wait_for_broker: bool = False
    threads: int | None = None
    credentials: Credentials | None = None


class ClientAgent:
    """Run a client until its run is over or it is told to stop.

    Parameters
    ----------
    settings
        What to run.
    say
        Prints one sentence for the person at the device.

    Raises
    ------
    hedgerow_transport.TransportError
        When a name or the broker's URL cannot be used.
    """

    def __init__(self, settings: ClientSettings, *, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._name = check_name(settings.name)
        self._place = BrokerUrl.parse(settings.broker).place
        self._topics = Topics(settings.namespace)
        self._namesake = Namesake(self._name, topics=self._topics)
        self._guard = (
            None if settings.credentials is None else Guard(settings.credentials, topics=self._topics)
        )
        self._refusals = Refusals()
        self._heeded: dict[Verdict, float] = {}
        self._link: Link | None = None
        self._mqtt: MqttLink | None = None
        self._trainer: TrainerProcess | None = None
        self._trainer_used = 0.0
        self._waiting: StartTraining | None = None
        self._try_again_at = 0.0
        self._decision: Decision | None = None
        self._training = False
        self._was_connected = False
        self._paused_for = self._pause_reason = ""
        self._teller: StateTeller | None = None
        self._desk: DeliveryDesk | None = None
        self._progress_at = 0.0

    def run(self, stop: threading.Event) -> Leave | None:
        """Follow the run; return how it ended, or None when `stop` was set.

        Raises
        ------
        hedgerow_edge_client.errors.EdgeClientError
            When the task, its data or the state folder cannot be used.
        hedgerow_transport.BrokerError
            When the broker cannot be reached or refuses.
        """
        settings = self._settings
        scan_task(settings.task)
        state = ClientState(settings.directory)
        try:
            number = state.next_session()
            # Before torch is loaded, which takes long on a small device.
            link = self._connect(number, stop)
            if link is None:
                return None
            try:
                early = self._listen(link)
                session = self._session(state, self._describe(), number=number)
                for warning in state.warnings:
                    self._say(warning)
                leave = self._follow(link, session, stop, early=early, number=number)
            except NameTaken:
                # Neither a farewell nor the will: both would speak for the other one.
                link.close()
                raise
            except BaseException:
                # Without a farewell the broker publishes the will: the coordinator does not wait for us.
                link.close(graceful=False)
                raise
            link.close()
            return leave
        finally:
            if self._desk is not None:
                self._desk.close()
            if self._trainer is not None:
                self._trainer.close()
            state.close()

    # -- beginnings -----------------------------------------------------------------------------------

    def _listen(self, link: Link) -> list[LinkEvent]:
        """Ask whether the name is taken; return what else came in meanwhile."""
        self._publish(self._namesake.question(), link)
        early: list[LinkEvent] = []
        end = time.monotonic() + NAMESAKE_WAIT_S
        while (rest := end - time.monotonic()) > 0:
            try:
                event = link.events.get(timeout=rest)
            except queue.Empty:
                break
            self._heed_namesake(event, session=None)
            early.append(event)
        return early

    def _describe(self) -> Description:
        settings = self._settings
        self._say(f"loading {settings.task.name}")
        description = self._open_trainer().describe(timeout_s=DESCRIBE_TIMEOUT_S)
        layout = description.layout
        self._say(
            f"'{settings.name}' has {description.num_samples:,} samples and a model of "
            f"{layout.num_parameters:,} parameters (layout {layout.digest.hex()[:8]})"
        )
        return description

    def _session(self, state: ClientState, description: Description, *, number: int) -> ClientSession:
        known = {name: value for name, value in Profile.read().to_dict().items() if value is not None}
        return ClientSession(
            self._settings.name,
            layout=description.layout,
            topics=self._topics,
            memory=state,
            session=number,
            profile={
                **known,
                "samples": description.num_samples,
                ANSWERS: ANSWERS_VERSION,
                INSTANCE: self._namesake.token,
            },
            jitter=random.random,
            received_bytes=lambda: 0 if self._link is None else self._link.traffic.received_bytes,
            heard_at=self._heard_at,
            once=self._settings.once,
            wall_clock=time.time,
        )

    def _heard_at(self) -> float:
        return 0.0 if self._mqtt is None else self._mqtt.heard_at

    def _open_desk(self) -> DeliveryDesk:
        desk = self._desk = DeliveryDesk(
            self._name,
            topics=self._topics,
            directory=self._settings.directory,
            open_trainer=self._open_trainer,
            heard_at=self._heard_at,
        )
        for warning in desk.warnings:
            self._say(warning)
        return desk

    def _connect(self, number: int, stop: threading.Event) -> Link | None:
        settings, guard = self._settings, self._guard
        place = self._topics.presence(self._name)

        def gone() -> bytes:
            at = max(0, int(time.time()))
            return Presence(client=self._name, session=number, online=False, profile={}, at=at).encode()

        link = MqttLink(
            settings.broker,
            # Two clients of one name must not throw each other out for ever: see `Namesake`.
            client_id=f"hedgerow-{settings.namespace}-{settings.name}-{self._namesake.token[-8:]}",
            filters=(*self._topics.client_filters(settings.name), self._namesake.topic),
            will=(
                SignedWill(guard, topic=place, make=gone)
                if guard
                else lambda: Will(topic=place, payload=gone())
            ),
        )
        while not stop.is_set():
            try:
                link.connect()
                self._link, self._mqtt = SignedLink(link, guard) if guard else link, link
                return self._link
            except BrokerUnreachable as error:
                if not settings.wait_for_broker:
                    link.close()
                    raise
                self._say(f"{error}; trying again in {RETRY_S:.0f} s")
                stop.wait(RETRY_S)
        link.close()
        return None

    def _follow(
        self,
        link: Link,
        session: ClientSession,
        stop: threading.Event,
        *,
        early: list[LinkEvent],
        number: int,
    ) -> Leave | None:
        leave: Leave | None = None
        teller = self._teller = StateTeller(self._name, topics=self._topics, session=number)
        desk = self._open_desk()
        for early_event in early:
            actions = self._on_event(early_event, session)
            actions += desk.take(early_event, now=time.monotonic())
            leave = leave or self._carry_out(actions, link)
        while leave is None and not stop.is_set():
            event = self._next_event(link, session)
            actions = self._on_event(event, session)
            actions += self._on_trainer(session)
            now = time.monotonic()
            actions += session.tick(now)
            actions += desk.take(event, now=now)
            actions += desk.tick(now, busy=self._training or self._waiting is not None)
            told = teller.look(self._doing(session), now=now, unix=time.time())
            leave = self._carry_out([*actions, *([told] if told else [])], link)
            self._start_waiting_training(session, link)
        if self._training and self._trainer is not None:
            self._trainer.cancel()
        self._publish(session.farewell(), link)
        return leave

    def _doing(self, session: ClientSession) -> Doing:
        doing = session.doing
        if self._waiting is None or not self._paused_for:
            return doing
        return Doing(state="paused", round=doing.round, reason=self._pause_reason)

    # -- the loop's parts -----------------------------------------------------------------------------

    def _next_event(self, link: Link, session: ClientSession) -> LinkEvent | None:
        now = time.monotonic()
        until = [now + (TRAINER_POLL_S if self._training else LONGEST_SLEEP_S)]
        if session.wake_at is not None:
            until.append(session.wake_at)
        if self._waiting is not None:
            until.append(self._try_again_at)
        if self._desk is not None and self._desk.wake_at is not None:
            until.append(self._desk.wake_at)
        try:
            return link.events.get(timeout=max(0.0, min(until) - now))
        except queue.Empty:
            return None

    def _on_event(self, event: LinkEvent | None, session: ClientSession) -> list[Action]:
        now = time.monotonic()
        if event is None:
            return []
        if isinstance(event, Connected):
            waiting = "" if self._was_connected else "; waiting for a round"
            self._say(f"connected {'again ' if self._was_connected else ''}to {self._place}{waiting}")
            self._was_connected = True
            told = None if self._teller is None else self._teller.repeat()
            return [*session.connected(now), *([told] if told else [])]
        if isinstance(event, Disconnected):
            if event.fatal:
                return [Leave(reason=event.reason, failed=True)]
            return [Say(text=f"the link to the broker is down: {event.reason}; it comes back by itself")]
        if isinstance(event, Refused):
            first = self._refusals.note(event.refusal)
            sentence = [Say(text=f"refused: {event.refusal}", level="warning")] if first else []
            return [*sentence, *self._repair(event, session)]
        from_coordinator = event.topic in (self._topics.manifest, self._topics.coordinator)
        if self._guard is None and from_coordinator and is_sealed(event.payload):
            reason = "the coordinator signs its messages: start this client with --credentials"
            return [Leave(reason=f"{reason} (hedgerow keys join makes them)", failed=True)]
        return [
            *self._heed_namesake(event, session=session),
            *session.handle(event.topic, event.payload, now=now),
        ]

    def _heed_namesake(self, event: LinkEvent, *, session: ClientSession | None) -> list[Action]:
        if not isinstance(event, Received):
            return []
        verdict = self._namesake.judge(
            event.topic, event.payload, retained=event.retained, asking=session is None
        )
        if verdict is Verdict.TAKEN:
            raise NameTaken(f"another client has the name '{self._name}': give each device its own --name")
        if session is None or verdict is Verdict.NOTHING:
            return []
        if self._is_too_soon(verdict):
            return []
        if verdict is Verdict.SUSPECT:
            return [self._namesake.question()]
        birth = session.presence(online=True)
        return [birth if verdict is Verdict.BURIED else self._namesake.answer(birth)]

    def _repair(self, event: Refused, session: ClientSession) -> list[Action]:
        """Say our birth again where somebody has put another message over it, or over one of the coordinator.

        Live messages of the coordinator that are refused do no harm. One that was waiting for us has taken
        the place of the true one; a birth that comes again makes the coordinator say it again.
        """
        ours = event.topic == self._namesake.topic
        if event.retained is ours or self._is_too_soon(Verdict.BURIED):
            return []
        return [session.presence(online=True)]

    def _is_too_soon(self, verdict: Verdict) -> bool:
        """Hold back, and note: not as often as somebody who sends such messages on and on would have it."""
        now = time.monotonic()
        if now < self._heeded.get(verdict, float("-inf")) + NAMESAKE_PAUSE_S:
            return True
        self._heeded[verdict] = now
        return False

    def _on_trainer(self, session: ClientSession) -> list[Action]:
        trainer = self._trainer
        if trainer is None:
            return []
        if not self._training:
            if time.monotonic() - self._trainer_used > TRAINER_IDLE_S:
                trainer.stop()
            return []
        actions: list[Action] = []
        while True:
            try:
                event = trainer.events.get_nowait()
            except queue.Empty:
                return actions
            if isinstance(event, Progress):
                self._say_progress(event)
                continue
            self._training, self._trainer_used = False, time.monotonic()
            if isinstance(event, Trained):
                seconds, loss = event.result.seconds, event.result.loss
                actions.append(Say(text=f"round {event.round}: trained in {seconds:.1f} s, loss {loss:.4f}"))
                actions += session.trained(event.result, now=time.monotonic())
            elif isinstance(event, Failed):
                actions += session.training_failed(event.reason)
            elif isinstance(event, Crashed):
                return actions + session.training_failed(event.reason)

    def _say_progress(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._progress_at:
            self._progress_at = now + PROGRESS_PAUSE_S
            self._say(
                f"epoch {progress.epoch} of {progress.epochs}, "
                f"batch {progress.batch:,} of {progress.batches:,}, loss {progress.loss:.4f}"
            )

    def _carry_out(self, actions: Iterable[Action], link: Link) -> Leave | None:
        for action in actions:
            if isinstance(action, Publication):
                self._publish(action, link)
            elif isinstance(action, Say):
                self._say(action.text)
            elif isinstance(action, StartTraining):
                self._waiting, self._try_again_at = action, 0.0
            elif isinstance(action, CancelTraining):
                self._waiting = None
                if self._training and self._trainer is not None:
                    self._trainer.cancel()
                    self._training, self._trainer_used = False, time.monotonic()
                self._say(f"training stopped: {action.reason}")
            elif isinstance(action, Leave):
                return action
        return None

    def _publish(self, publication: Publication, link: Link) -> None:
        try:
            link.publish(
                publication.topic, publication.payload, retain=publication.retain, qos=publication.qos
            )
        except (LinkOverflow, PacketTooLarge) as error:
            # The session offers again later and learns which chunks are missing.
            self._say(str(error))

    def _start_waiting_training(self, session: ClientSession, link: Link) -> None:
        waiting = self._waiting
        if waiting is None or self._training or time.monotonic() < self._try_again_at:
            return
        self._decision = Governor().decide(
            Readings.take(directory=self._settings.directory), previous=self._decision
        )
        if not self._decision.go:
            # Said once for each cause, not every half minute through a hot night.
            if self._decision.cause != self._paused_for:
                self._paused_for, self._pause_reason = self._decision.cause, self._decision.reason
                self._say(f"not training now: {self._decision.reason}")
            self._try_again_at = time.monotonic() + self._decision.retry_s
            return
        self._waiting, self._paused_for = None, ""
        try:
            self._open_trainer().start_train(waiting.request)
        except TrainerCrashed as error:
            self._carry_out(session.training_failed(str(error)), link)
            return
        self._training, self._progress_at = True, time.monotonic() + PROGRESS_PAUSE_S
        self._say(f"round {waiting.request.round}: training")

    def _open_trainer(self) -> TrainerProcess:
        settings = self._settings
        if self._trainer is None:
            threads = settings.threads or (self._decision or Governor().decide(Readings.take())).threads
            self._trainer = TrainerProcess(
                settings.task, data=settings.data, client=settings.name, threads=threads
            )
        self._trainer_used = time.monotonic()
        return self._trainer
