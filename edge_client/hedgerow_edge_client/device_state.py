"""Telling what this device does, where it does it for long: a short round is not worth a message."""

from __future__ import annotations

from dataclasses import dataclass

from hedgerow_transport import DeviceState, Publication, Topics

# A state that is over sooner is not told.
TOLD_AFTER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Doing:
    """What a client does.

    Parameters
    ----------
    state
        One of `hedgerow_transport.DEVICE_STATES`.
    round
        For which round; 0 for none.
    reason
        Why, when it pauses.
    """

    state: str
    round: int = 0
    reason: str = ""


class StateTeller:
    """Say what this device does, retained, once it has done it for `TOLD_AFTER_S`.

    Parameters
    ----------
    client
        The name.
    topics
        The names of the namespace.
    session
        Number of this start of the client; it binds what is said to the birth message.
    """

    def __init__(self, client: str, *, topics: Topics, session: int) -> None:
        self._topic = topics.up(client, "state")
        self._session = session
        # A birth says as much as that.
        self._told = self._doing = Doing(state="waiting")
        self._since = self._since_unix = 0.0

    def look(self, doing: Doing, *, now: float, unix: float) -> Publication | None:
        """Return what is to be said now, if anything.

        Parameters
        ----------
        doing
            What the client does.
        now, unix
            Seconds by a clock that does not jump, and Unix time.
        """
        if doing != self._doing:
            self._doing, self._since, self._since_unix = doing, now, unix
        if doing == self._told or now - self._since < TOLD_AFTER_S:
            return None
        return self._tell()

    def repeat(self) -> Publication | None:
        """Return again what was said: the broker may be a new one."""
        return None if self._told == Doing(state="waiting") else self._tell()

    def _tell(self) -> Publication:
        self._told = self._doing
        message = DeviceState(
            session=self._session,
            state=self._told.state,
            round=self._told.round,
            at=max(0, int(self._since_unix)),
            reason=self._told.reason,
        )
        return Publication(topic=self._topic, payload=message.encode(), retain=True)
