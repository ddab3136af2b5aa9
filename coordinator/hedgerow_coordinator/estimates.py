"""EF21 on the coordinator: from which estimate an update comes, and what it makes of it (Richtarik 2021)."""

from __future__ import annotations

from hedgerow_codecs import DecodedUpdate, Ef21Feedback, LayoutError, Mask
from hedgerow_coordinator.errors import EstimateError, StoreError
from hedgerow_coordinator.estimate_files import EstimateFiles
from hedgerow_transport import Offer


class Estimates:
    """What is known of the clients in one round; holds no vector but that of the client at hand.

    Parameters
    ----------
    files
        The run's estimates.
    mask
        Of the round.
    round_number
        The round that is being collected.
    """

    def __init__(self, files: EstimateFiles, *, mask: Mask, round_number: int) -> None:
        self._files = files
        self._mask = mask
        self._round = round_number
        self._zero_digest = Ef21Feedback.zero(mask.layout).digest

    def fate(self, client: str, offer: Offer) -> tuple[str, str] | None:
        """Return status and reason of an offer that cannot be taken, None when it can; reads no estimate."""
        if not offer.estimate:
            return "refused", "this run uses EF21 error feedback: update Hedgerow on this device"
        kept = self._files.digest(client, before=self._round)
        if offer.estimate in (self._zero_digest, kept):
            return None
        return (
            "anew",
            f"the estimate that is kept of {client} is another one" if kept else f"none is kept of {client}",
        )

    def is_dropped(self, client: str, digest: bytes) -> bool:
        """Return whether a client begins at zero although another estimate is kept of it."""
        kept = self._files.digest(client, before=self._round)
        return digest == self._zero_digest and kept not in (None, self._zero_digest)

    def moved(self, client: str, update: DecodedUpdate, *, digest: bytes) -> Ef21Feedback:
        """Return the client's estimate after an update.

        Parameters
        ----------
        client
            Its name.
        update
            Under the round's mask.
        digest
            Of the estimate that the update is relative to; of an offer for which `fate` is None.

        Raises
        ------
        EstimateError
            The one that is kept cannot be read.
        """
        before = Ef21Feedback.zero(self._mask.layout)
        if digest != self._zero_digest:
            try:
                data = self._files.load(client, before=self._round)
                before = Ef21Feedback.from_bytes(data, layout=self._mask.layout)
            except (StoreError, LayoutError) as error:
                raise _lost(client, error) from error
        return before.remask(self._mask).moved_by(self._mask.scatter(update.values()))

    def recalled(self, client: str) -> Ef21Feedback:
        """Return the estimate that an update of this round has made before a restart or a failed attempt.

        Raises
        ------
        EstimateError
            It cannot be read.
        """
        try:
            data = self._files.load_new(client, round_number=self._round)
            return Ef21Feedback.from_bytes(data, layout=self._mask.layout)
        except (StoreError, LayoutError) as error:
            raise _lost(client, error) from error

    def as_update(self, feedback: Ef21Feedback) -> DecodedUpdate:
        """Return an estimate in the form in which it can be averaged."""
        return DecodedUpdate(mask=self._mask, dense=self._mask.gather(feedback.estimate))


def _lost(client: str, error: Exception) -> EstimateError:
    return EstimateError(f"the estimate that is kept of {client} is lost", client=client, detail=str(error))
