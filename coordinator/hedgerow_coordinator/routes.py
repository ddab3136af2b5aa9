"""Which blobs bring a client to the current version: the steps since its own, or a keyframe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from hedgerow_coordinator.broadcast import Broadcast
from hedgerow_coordinator.checkpoint import ServerState
from hedgerow_coordinator.server_model import Steps, keyframe
from hedgerow_transport import MAX_ROUTE_STEPS, BlobRef, Route

FROM_NOTHING = -1
# A client that is further behind takes a keyframe.
HISTORY_VERSIONS = 32
_NOTE = "steps"


class Routes:
    """Remember the steps between versions, and make keyframes when they are the cheaper way.

    Parameters
    ----------
    broadcast
        Keeps the blobs.
    """

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast
        self._history: dict[int, tuple[BlobRef, ...]] = {}
        self._keyframe: tuple[int, tuple[BlobRef, ...]] | None = None

    def notes(self) -> dict[str, object]:
        """Return the history as JSON values, to be kept with a checkpoint."""
        return {
            _NOTE: {
                str(version): [[ref.kind, ref.digest.hex(), ref.size] for ref in refs]
                for version, refs in self._history.items()
            }
        }

    def recall(self, notes: Mapping[str, object]) -> None:
        """Take up the history of an earlier process, as far as its blobs are still there."""
        kept = notes.get(_NOTE, {})
        assert isinstance(kept, dict)
        for version, entries in kept.items():
            refs = tuple(BlobRef(kind=k, digest=bytes.fromhex(d), size=n) for k, d, n in entries)
            if all(map(self._broadcast.know, refs)):
                self._history[int(version)] = refs

    def add(self, version: int, steps: Steps) -> None:
        """Keep the frames that lead to `version` from the one before."""
        self._history[version] = tuple(self._broadcast.add(kind, frame) for kind, frame in steps)
        for old in [v for v in self._history if v <= version - HISTORY_VERSIONS]:
            del self._history[old]

    def in_use(self) -> tuple[BlobRef, ...]:
        """Return the blobs that a client may still be sent; two versions may share one."""
        whole = () if self._keyframe is None else self._keyframe[1]
        return tuple(ref for refs in self._history.values() for ref in refs) + whole

    def latest(self, state: ServerState) -> tuple[tuple[BlobRef, ...], int]:
        """Return the last steps and the version they start from, for the manifest."""
        chain = self._chain(range(state.version, state.version + 1))
        return (self._whole(state), FROM_NOTHING) if chain is None else (chain, state.version - 1)

    def to(self, state: ServerState, *, version: int) -> Route:
        """Return the cheaper way from a client's version (-1: nothing) to the current one."""
        chain = self._chain(range(version + 1, state.version + 1))
        whole = self._whole(state)
        if chain is not None and sum(ref.size for ref in chain) <= sum(ref.size for ref in whole):
            return Route(version=state.version, steps=chain, base_version=version)
        return Route(version=state.version, steps=whole, base_version=FROM_NOTHING)

    def _chain(self, versions: Iterable[int]) -> tuple[BlobRef, ...] | None:
        refs: list[BlobRef] = []
        for version in versions:
            step = self._history.get(version)
            if step is None or not all(map(self._broadcast.has, step)):
                return None
            refs += step
        return tuple(refs) if 0 < len(refs) <= MAX_ROUTE_STEPS else None

    def _whole(self, state: ServerState) -> tuple[BlobRef, ...]:
        known = self._keyframe
        if known is None or known[0] != state.version or not all(map(self._broadcast.has, known[1])):
            refs = tuple(self._broadcast.add(kind, frame) for kind, frame in keyframe(state))
            self._keyframe = known = (state.version, refs)
        return known[1]
