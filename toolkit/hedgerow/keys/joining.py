"""The device's end of `hedgerow keys join`: private keys are made here and never leave."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from pathlib import Path
from typing import Any

from cryptography import x509

from hedgerow.errors import HedgerowError, UsageError
from hedgerow.keys.certificates import (
    check_issued,
    common_name,
    fingerprint,
    key_to_pem,
    new_key,
    public_bytes,
    request_for,
    to_pem,
)
from hedgerow.keys.gate import DEFAULT_PORT, proof_bytes
from hedgerow.keys.token import Token
from hedgerow_transport import Credentials, SigningKey, check_name, write_credentials

TIMEOUT_S = 15.0
MAX_ANSWER_BYTES = 1 << 16


class JoinFailed(HedgerowError):
    """The gateway could not be reached, is not the one of the token, or said no."""


def parse_place(text: str) -> tuple[str, int]:
    """Return host and port of ``HOST``, ``HOST:PORT`` or ``[ADDRESS]:PORT``.

    Raises
    ------
    hedgerow.errors.UsageError
        When it is none of these.
    """
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+))(?::(\d{1,5}))?", text)
    port = DEFAULT_PORT if found is None or found[3] is None else int(found[3])
    if found is None or not 1 <= port <= 65_535:
        raise UsageError(f"--gateway {text[:80]!r} is not HOST or HOST:PORT")
    return found[1] or found[2], port


def join(token: Token, *, host: str, port: int, directory: Path, force: bool) -> Credentials:
    """Get credentials for a token, and write them to a folder.

    Parameters
    ----------
    token : Token
    host, port
        Where `hedgerow keys serve` runs.
    directory : Path
        A new folder.
    force : bool
        Whether credentials that are there are put aside.

    Raises
    ------
    hedgerow.errors.UsageError
        When the folder is there already and `force` is not set.
    JoinFailed
        One sentence.
    OSError
        When the folder cannot be written.
    """
    occupied = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if occupied and not force:
        raise UsageError(f"{directory} is there already: --force puts it aside, --output writes elsewhere")
    # Before the token is used up.
    directory.parent.mkdir(parents=True, exist_ok=True)
    authority = _authority(token, host=host, port=port)
    key, signing_key = new_key(), SigningKey.generate()
    request = request_for(key)
    question = {
        "token": token.identifier,
        "secret": token.secret.hex(),
        "request": request.decode(),
        "signing_key": signing_key.public.hex(),
        "proof": signing_key.sign(proof_bytes(token.identifier, request)).hex(),
    }
    context = ssl.create_default_context(cadata=to_pem(authority).decode())
    # The token names the authority, not the gateway's host; only servers' certificates pass here, and the
    # authority signs them for the gateway alone.
    context.check_hostname = False
    answer = _ask("POST", "/join", json.dumps(question), host=host, port=port, context=context)
    name, certificate, coordinator_key, made = _read_answer(
        answer, authority=authority, public=key.public_key()
    )
    if occupied:
        directory.rename(directory.with_name(f"{directory.name}.before-{int(time.time())}"))
    write_credentials(
        directory,
        role="device",
        name=name,
        authority=to_pem(authority),
        certificate=to_pem(certificate),
        key=key_to_pem(key),
        signing_key=signing_key,
        coordinator_key=coordinator_key,
        made=made,
        expires=int(certificate.not_valid_after_utc.timestamp()),
    )
    return Credentials.load(directory)


def _authority(token: Token, *, host: str, port: int) -> x509.Certificate:
    """Fetch the authority's certificate; the fingerprint in the token is what makes it trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    answer = _ask("GET", "/authority", None, host=host, port=port, context=context)
    try:
        authority = x509.load_pem_x509_certificate(str(answer.get("authority")).encode())
    except ValueError as error:
        raise JoinFailed(f"{host}:{port} does not answer like `hedgerow keys serve`") from error
    if fingerprint(authority) != token.fingerprint:
        raise JoinFailed(
            f"{host}:{port} is not the gateway that made this token: its authority has another certificate"
        )
    return authority


def _ask(
    method: str, path: str, body: str | None, *, host: str, port: int, context: ssl.SSLContext
) -> dict[str, Any]:
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=context)
    place = f"{host}:{port}"
    try:
        connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
        response = connection.getresponse()
        data = response.read(MAX_ANSWER_BYTES + 1)
    except ssl.SSLCertVerificationError as error:
        raise JoinFailed(
            f"the certificate of {place} was not signed by the token's authority ({error.verify_message})"
        ) from error
    except ConnectionRefusedError as error:
        raise JoinFailed(f"nothing listens at {place}: is `hedgerow keys serve` running there?") from error
    except (OSError, http.client.HTTPException, UnicodeError) as error:
        reason = str(error) or type(error).__name__
        raise JoinFailed(f"{place} cannot be asked: {reason[:200]}; is it `hedgerow keys serve`?") from error
    finally:
        connection.close()
    try:
        answer = json.loads(data) if len(data) <= MAX_ANSWER_BYTES else None
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise JoinFailed(f"{place} does not answer like `hedgerow keys serve`")
    if response.status != http.client.OK:
        said = str(answer.get("error", response.reason))[:200]
        raise JoinFailed(f"the gateway says: {''.join(c if c.isprintable() else ' ' for c in said)}")
    return answer


def _read_answer(
    answer: dict[str, Any], *, authority: x509.Certificate, public: object
) -> tuple[str, x509.Certificate, bytes, int]:
    try:
        certificate = x509.load_pem_x509_certificate(str(answer.get("certificate")).encode())
        check_issued(certificate, by=authority)
        name = check_name(common_name(certificate))
        if public_bytes(certificate.public_key()) != public_bytes(public):
            raise ValueError("the certificate is for another key")
        coordinator_key = bytes.fromhex(str(answer.get("coordinator_key")))
        if len(coordinator_key) != 32:
            raise ValueError("the coordinator's key is none")
        made = int(str(answer.get("time")))
    except ValueError as error:
        raise JoinFailed(f"the gateway's answer cannot be used: {error}; ask for a new token") from error
    return name, certificate, coordinator_key, made
