"""Whether another client of the same name is about: two would answer each other's rounds."""

from __future__ import annotations

import secrets
import time
from enum import Enum

from hedgerow_transport import MessageError, Presence, Publication, Topics, decode_message

INSTANCE = "instance"


class Verdict(Enum):
    """What a presence message under our own name means."""

    NOTHING = "nothing"
    ASKED = "asked"
    TAKEN = "taken"
    BURIED = "buried"


class Namesake:
    """Ask for a namesake, and judge what comes back.

    Each process has a token, which its birth message carries. Who starts asks; who is there answers by saying
    its birth message again; who hears a foreign one leaves, or stays when it is the one that started earlier.

    Parameters
    ----------
    client
        The name.
    topics
        The names of the namespace.
    token
        Of this process; by default one that sorts by the time of the start.
    """

    def __init__(self, client: str, *, topics: Topics, token: str | None = None) -> None:
        self.token = token or f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self._client = client
        self.topic = topics.presence(client)

    def question(self) -> Publication:
        """Return the question. Session 0 is older than any: to the coordinator it means nothing."""
        profile = {INSTANCE: self.token}
        message = Presence(client=self._client, session=0, online=False, profile=profile)
        return Publication(topic=self.topic, payload=message.encode())

    def judge(self, topic: str, payload: bytes, *, retained: bool, asking: bool) -> Verdict:
        """Say what a message means.

        Parameters
        ----------
        topic, payload, retained
            The message. A retained one may be of an earlier life of ours, and says nothing.
        asking
            Whether we have asked and have not been born yet: then whoever is there was there before.
        """
        if topic != self.topic or retained or not payload:
            return Verdict.NOTHING
        try:
            message = decode_message(payload, Presence)
        except MessageError:
            return Verdict.NOTHING
        other = message.profile.get(INSTANCE)
        if not isinstance(other, str):
            # A will of our earlier life that comes late, or a namesake that leaves: now nobody knows of us.
            return Verdict.NOTHING if message.online or asking else Verdict.BURIED
        if other == self.token:
            return Verdict.NOTHING
        if message.online and (asking or other < self.token):
            return Verdict.TAKEN
        return Verdict.ASKED
