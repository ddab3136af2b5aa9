"""The report as a browser shows it: headless, and with every host name leading nowhere."""

import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from hedgerow.main import main

pytestmark = pytest.mark.browser

WIDTH, HEIGHT = 390, 800


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    pytest.fail("these tests need a Chromium on PATH")


@pytest.fixture
def report(small_run: Path) -> Path:
    assert main(["report", str(small_run)]) == 0
    return small_run / "report.html"


def browse(chromium: str, report: Path, *wishes: str) -> str:
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-extensions",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={report.parent / 'browser'}",
        f"--window-size={WIDTH},{HEIGHT}",
        *wishes,
        report.as_uri(),
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    return outcome.stdout


def pixels(path: Path) -> tuple[int, int, set[bytes]]:
    """Return width, height and the distinct rows of bytes of a PNG file as it is packed."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    packed, at = b"", 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw = zlib.decompress(packed)
    stride = len(raw) // height
    return width, height, {raw[i : i + stride] for i in range(0, len(raw), stride)}


def test_the_page_renders(chromium: str, report: Path, tmp_path: Path) -> None:
    shot = tmp_path / "page.png"
    browse(chromium, report, f"--screenshot={shot}")
    width, height, rows = pixels(shot)
    assert (width, height) == (WIDTH, HEIGHT)
    # Text and charts give hundreds of different rows of pixels, an empty page a handful.
    assert len(rows) > 200


def test_the_parsed_page_has_headline_and_charts(chromium: str, report: Path) -> None:
    tree = browse(chromium, report, "--dump-dom")
    assert "<h1>Run digits-1</h1>" in tree
    assert "<strong>87.5%</strong>" in tree
    assert tree.count("<svg") == 4
    # What peers said was parsed as text, in the table and in the events.
    assert not re.search(r"<script", tree, re.IGNORECASE)
    assert tree.count("&lt;script&gt;") == 2
    # Nothing was dropped or moved out of place by the parser.
    assert re.search(r"</footer>\s*</body></html>\s*$", tree)


def test_the_page_fits_a_phone(chromium: str, report: Path) -> None:
    wide = report.with_name("probe.html")
    script = (
        "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script></body>"
    )
    # The page itself forbids scripts; the probe is a copy that allows this one.
    page = re.sub(r"<meta http-equiv=[^>]*>", "", report.read_text(encoding="utf-8"))
    wide.write_text(page.replace("</body>", script), encoding="utf-8")
    found = re.search(r"<title>(\d+) of (\d+)</title>", browse(chromium, wide, "--dump-dom"))
    assert found is not None
    assert int(found[1]) <= int(found[2])
