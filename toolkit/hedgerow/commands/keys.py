"""Make certificates and keys for a network that is not trusted.

On the gateway: `init` once; then `token` for each device, and `serve` while they join. On a device: `join`.
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from pathlib import Path

from hedgerow.console import say, stop_on_signals
from hedgerow.errors import UsageError
from hedgerow.exit_codes import ExitCode

AUTHORITY_DAYS, CREDENTIAL_DAYS, TOKEN_HOURS = 3650, 730, 24.0
# So that a coordinator beside its broker needs no name.
OWN_HOSTS = ("localhost", "127.0.0.1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the call."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def action(name: str, text: str, *, keys: bool = True) -> argparse.ArgumentParser:
        sub = actions.add_parser(name, help=text, description=text)
        if keys:
            sub.add_argument(
                "--keys",
                metavar="FOLDER",
                type=Path,
                default=Path("keys"),
                help="what `init` has made; default: ./%(default)s",
            )
        return sub

    init = action("init", "make an authority, and certificates for broker and coordinator", keys=False)
    init.add_argument("folder", type=Path, nargs="?", default=Path("keys"), help="default: ./%(default)s")
    _add_hosts(init)
    _add_days(init)
    init.add_argument(
        "--authority-days", metavar="N", type=int, default=AUTHORITY_DAYS, help="default: %(default)s"
    )

    token = action("token", "make a token with which one device can join, once")
    _add_device(token)
    token.add_argument(
        "--hours", metavar="N", type=float, default=TOKEN_HOURS, help="it is good for; default: %(default)s"
    )

    serve = action("serve", "let devices join, until Ctrl-C or SIGTERM")
    serve.add_argument("--bind", metavar="ADDRESS", default="", help="address to listen on; default: all")
    serve.add_argument("--port", metavar="N", type=int, default=8884, help="default: %(default)s")

    join = action(
        "join", "on a device: trade a token for credentials; its private keys are made here", keys=False
    )
    join.add_argument("token", help="from `hedgerow keys token`; - reads it from stdin")
    place = join.add_mutually_exclusive_group(required=True)
    place.add_argument("--gateway", metavar="HOST[:PORT]", help="where `hedgerow keys serve` runs; port 8884")
    place.add_argument("--broker", metavar="URL", help="the same on the broker's host")
    join.add_argument(
        "--output",
        metavar="FOLDER",
        type=Path,
        default=Path("credentials"),
        help="new folder for the credentials; default: ./%(default)s",
    )
    join.add_argument("--force", action="store_true", help="put credentials that are there aside")

    device = action("device", "make the credentials of a device here, to be copied to it")
    _add_device(device)

    revoke = action("revoke", "take a device's credentials back")
    revoke.add_argument("name", help="the device")

    renew = action("renew", "new certificates for broker and coordinator, with the same keys")
    _add_hosts(renew)
    _add_days(renew)

    listing = action("list", "list devices, tokens, and when certificates end")
    listing.add_argument("--json", action="store_true", help="print JSON for a program")


def run(options: argparse.Namespace) -> int:
    """Do what was asked."""
    from hedgerow_transport import need_cryptography

    need_cryptography()
    return _ACTIONS[options.action](options)


def _init(options: argparse.Namespace) -> int:
    from hedgerow.keys.authority import Authority, broker_hosts, day

    host = socket.gethostname().lower()
    hosts = options.host or [host, f"{host.partition('.')[0]}.local"]
    authority = Authority.create(
        options.folder,
        hosts=[*hosts, *OWN_HOSTS],
        authority_days=options.authority_days,
        days=options.days,
        now=time.time(),
    )
    folder = authority.directory
    print(f"wrote {folder}: an authority until {day(authority.certificate.not_valid_after_utc.timestamp())}")
    print(f"the broker is known as {', '.join(broker_hosts(folder))}, until {_days_on(options.days)}")
    print(f"keep {folder / 'authority'} to yourself; next:")
    print(f"  hedgerow broker run --keys {folder}")
    print(f"  hedgerow coordinator PLAN --broker mqtts://localhost --credentials {folder / 'coordinator'}")
    print(f"  hedgerow keys token NAME --keys {folder}     for each device")
    print(f"  hedgerow keys serve --keys {folder}          while they join")
    return ExitCode.DONE


def _token(options: argparse.Namespace) -> int:
    from hedgerow.keys.authority import Authority, broker_hosts

    authority = Authority.open(options.keys)
    token = authority.new_token(
        options.name,
        hours=options.hours,
        credential_days=options.days,
        replaces=options.replace,
        now=time.time(),
    )
    host = broker_hosts(options.keys)[0]
    hint = (
        f"for '{options.name}', once, within {options.hours:g} hours, while `hedgerow keys serve` runs here:"
    )
    print(hint, file=sys.stderr)
    print(f"  hedgerow keys join TOKEN --gateway {host}", file=sys.stderr, flush=True)
    print(token.text)
    return ExitCode.DONE


def _serve(options: argparse.Namespace) -> int:
    from hedgerow.keys.authority import Authority
    from hedgerow.keys.gate import Gate

    authority = Authority.open(options.keys)
    if not 0 <= options.port <= 65_535:
        raise UsageError(f"--port must be from 0 to 65535, not {options.port}")
    try:
        gate = Gate(authority, host=options.bind, port=options.port, say=say)
    except OSError as error:
        where = f"{options.bind}:{options.port}" if options.bind else f"port {options.port}"
        raise UsageError(f"cannot listen at {where}: {error.strerror or error}") from error
    with stop_on_signals() as stop:
        say(f"devices can join at port {gate.port}; tokens that are open: {len(authority.open_tokens())}")
        try:
            while not stop.is_set():
                stop.wait(1.0)
        except KeyboardInterrupt:
            pass
        finally:
            gate.close()
    say("stopped")
    return ExitCode.INTERRUPTED


def _join(options: argparse.Namespace) -> int:
    from hedgerow.keys.authority import day
    from hedgerow.keys.gate import DEFAULT_PORT
    from hedgerow.keys.joining import join, parse_place
    from hedgerow.keys.token import Token
    from hedgerow_transport import BrokerUrl

    token = Token.parse(sys.stdin.readline() if options.token == "-" else options.token)
    if options.gateway is not None:
        host, port = parse_place(options.gateway)
    else:
        host, port = BrokerUrl.parse(options.broker).host, DEFAULT_PORT
    found = join(token, host=host, port=port, directory=options.output, force=options.force)
    print(
        f"this device is '{found.name}' until {day(found.expires)}; its credentials are in {options.output}"
    )
    broker = options.broker or f"mqtts://{host}"
    print(f"next: hedgerow client TASK --broker {broker} --credentials {options.output}")
    return ExitCode.DONE


def _device(options: argparse.Namespace) -> int:
    from hedgerow.keys.authority import Authority

    folder = Authority.open(options.keys).add_device(
        options.name, days=options.days, replaces=options.replace, now=time.time()
    )
    print(f"wrote {folder}, good until {_days_on(options.days)}: copy it to the device, and delete it here")
    return ExitCode.DONE


def _revoke(options: argparse.Namespace) -> int:
    from hedgerow.keys.authority import Authority

    Authority.open(options.keys).revoke(options.name, now=time.time())
    print(f"'{options.name}' is revoked: the coordinator refuses it from now on")
    print("`hedgerow broker run` shuts it out within a second; start a Mosquitto of your own anew")
    return ExitCode.DONE


def _renew(options: argparse.Namespace) -> int:
    from hedgerow.keys.authority import Authority

    hosts = [*options.host, *OWN_HOSTS] if options.host else []
    found = Authority.open(options.keys).renew(hosts=hosts, days=options.days, now=time.time())
    print(
        f"the broker is known as {', '.join(found)}; "
        f"its certificate and the coordinator's are good until {_days_on(options.days)}"
    )
    print("start broker and coordinator anew")
    return ExitCode.DONE


def _list(options: argparse.Namespace) -> int:
    from hedgerow.keys.authority import Authority, broker_hosts, day

    authority = Authority.open(options.keys)
    devices, tokens = authority.devices().by_name, authority.open_tokens()
    ends = authority.ends()
    if options.json:
        rows = {n: {"expires": d.expires, "revoked": d.revoked or None} for n, d in sorted(devices.items())}
        content = {
            "hosts": broker_hosts(options.keys),
            "expires": ends,
            "devices": rows,
            "tokens": [{"name": name, "expires": expires} for name, expires in tokens],
        }
        print(json.dumps(content, indent=2))
        return ExitCode.DONE
    print(f"broker: {', '.join(broker_hosts(options.keys))}")
    for what, end in ends.items():
        print(f"the certificate of the {what} ends on {day(end)}")
    for name, found in sorted(devices.items()):
        state = f"revoked on {day(found.revoked)}" if found.revoked else f"until {day(found.expires)}"
        print(f"{name}: {state}")
    for name, end in tokens:
        print(f"{name}: a token is open until {time.strftime('%Y-%m-%d %H:%M', time.localtime(end))}")
    return ExitCode.DONE


_ACTIONS = {
    "init": _init,
    "token": _token,
    "serve": _serve,
    "join": _join,
    "device": _device,
    "revoke": _revoke,
    "renew": _renew,
    "list": _list,
}


def _add_hosts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name or address under which clients reach the broker; may be given several times; "
        "default: this machine's name. localhost is always one",
    )


def _add_days(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--days",
        metavar="N",
        type=int,
        default=CREDENTIAL_DAYS,
        help="how long certificates are good for; default: %(default)s",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="the device's name: 1 to 32 of a-z, 0-9, '-' and '_'")
    _add_days(parser)
    parser.add_argument("--replace", action="store_true", help="take credentials back that it has already")


def _days_on(days: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(time.time() + days * 86_400))
