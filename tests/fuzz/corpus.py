"""Inputs for the fuzzer: sound ones to start from, and those worth keeping.

``corpus.py seeds frames|messages DIR`` writes one file for each sound frame or message, made by the code as
it is. ``corpus.py unpack|pack|count TARGET DIR`` moves other inputs between DIR and ``kept/TARGET.txt`` (one
input a line, in hex), or says what becomes of the inputs in DIR.
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

KEPT = Path(__file__).parent / "kept"


def main() -> None:
    """Do what the arguments say."""
    what, target, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    kept = KEPT / f"{target}.txt"
    if what == "pack":
        found = {path.read_bytes() for path in folder.iterdir()} - set(seeds(target))
        inputs = sorted(found, key=lambda data: (len(data), data))
        kept.parent.mkdir(exist_ok=True)
        kept.write_text("".join(data.hex() + "\n" for data in inputs))
        print(f"{kept}: {len(inputs)} inputs, {kept.stat().st_size} bytes")
    elif what == "count":
        attempt = importlib.import_module(target).attempt
        found = Counter(attempt(path.read_bytes()) for path in sorted(folder.iterdir()))
        print(
            f"{target}: {found.total()} inputs:", ", ".join(f"{n} {name}" for name, n in found.most_common())
        )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        inputs = seeds(target) if what == "seeds" else map(bytes.fromhex, kept.read_text().split())
        for data in inputs:
            (folder / blake2b(data, digest_size=10).hexdigest()).write_bytes(data)


def seeds(target: str) -> Iterator[bytes]:
    """Yield sound inputs."""
    module = importlib.import_module(target)
    if target == "messages":
        for number, message in enumerate(module.SAMPLES):
            yield bytes([number]) + message.encode()
            if type(message).__name__ in ("Accept", "Ack", "Route"):
                yield bytes([module.DOWN]) + message.encode()
        yield bytes([module.CHUNK]) + module.encode_chunk(3, b"data")
        yield bytes([module.TOPIC]) + b"hedgerow/1/home/up/pi-1/offer"
        return
    for number, situation in enumerate(module.SITUATIONS):
        for place, frame in enumerate(situation.frames):
            header = module.read_header(frame)
            payload = frame[-4 - header.payload_bytes : -4]
            if header.kind == 6:
                payload = payload[:8]
            yield bytes([number, module.AS_IT_IS]) + frame
            yield bytes([number, module.WITH_CHECKSUM]) + frame
            yield bytes([number, module.WITH_HEADER, header.kind - 1, frame[4]]) + payload
            yield bytes([number, module.EDITED, place, 0, 20, 0, 1, 1, 15, 0, 200])
        yield bytes([number, module.LAYOUT]) + situation.mask.layout.to_bytes()


if __name__ == "__main__":
    main()
