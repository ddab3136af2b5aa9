"""Whether another client of the same name is about: two would answer each other's rounds."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from enum import Enum

from hedgerow_transport import MessageError, Presence, Publication, Topics, decode_message

INSTANCE = "instance"
# The token of the one who is answered. Without it a birth may be one of long ago that somebody plays again.
ANSWERS = "answers"


class Verdict(Enum):
    """What a presence message under our own name means, and what is to be done."""

    NOTHING = "nothing"
    # Somebody asks, or has come into being beside us: answer.
    ASKED = "asked"
    # Somebody may have been there before us: ask.
    SUSPECT = "suspect"
    # Somebody was there before us, and has said so to us: leave.
    TAKEN = "taken"
    # We are said to be gone: say the birth message again.
    BURIED = "buried"


class Namesake:
    """Ask for a namesake, and judge what comes back.

    Each process has a token, which its birth message carries. Who starts asks; who is there answers with its
    birth message and the token of who asked; who is answered leaves, or stays when it started earlier.

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
        self._other = ""
        self.topic = topics.presence(client)

    def question(self) -> Publication:
        """Return the question. Session 0 is older than any: to the coordinator it means nothing."""
        profile = {INSTANCE: self.token}
        message = Presence(client=self._client, session=0, online=False, profile=profile)
        return Publication(topic=self.topic, payload=message.encode())

    def answer(self, birth: Publication) -> Publication:
        """Return our birth message as an answer to the one who was judged last."""
        message = decode_message(birth.payload, Presence)
        answer = replace(message, profile={**message.profile, ANSWERS: self._other})
        return replace(birth, payload=answer.encode())

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
        self._other = other
        was_there = asking or other < self.token
        if not message.online or not was_there:
            return Verdict.ASKED
        return Verdict.TAKEN if message.profile.get(ANSWERS) == self.token else Verdict.SUSPECT
