"""The report: its numbers, what it says of what was not measured, and that it stands alone."""

import builtins
import html
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hedgerow.main import main
from hedgerow.quantities import bytes_text, ratio_text, seconds_text
from hedgerow.report import RunFacts, collect_facts, render_page
from hedgerow_coordinator import ClientSummary, EventRecord, RoundRecord, RunStore

MARKUP = "<script>alert(1)</script>"


def facts_of(directory: Path) -> RunFacts:
    with RunStore.open(directory, read_only=True) as store:
        return collect_facts(store)


def page_of(directory: Path) -> str:
    return render_page(facts_of(directory), now=0.0)


@pytest.fixture(scope="module")
def page(finished_run: Path) -> str:
    return page_of(finished_run)


def words(page: str) -> str:
    """Return what a reader sees, without the style sheet."""
    body = page[page.index("<body>") :]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def round_record(number: int, **values: Any) -> RoundRecord:
    return RoundRecord(**({"round": number, "started": 0.0, "ended": 1.0, "seconds": 1.0} | values))


# -- numbers ------------------------------------------------------------------------------------------


def test_the_facts_are_those_of_the_journal(small_run: Path) -> None:
    facts = facts_of(small_run)
    assert facts.cumulative_uplink == (1000, 1500, 1600)
    assert facts.uplink_bytes == 1600
    assert facts.broadcast_bytes == 550
    # 600 + 400 + 200, and 50 that the clients told on leaving.
    assert facts.downlink_bytes == 1250
    # 2 + 2 + 1 updates of 2000 parameters of 4 bytes.
    assert facts.dense_bytes == 40_000
    # The failed attempt's 5 seconds were spent, too.
    assert facts.seconds == 11.0
    assert facts.density == 0.25
    assert facts.finished
    assert facts.failure == ""
    assert [record.round for record in facts.attempts] == [1, 2, 2, 3]


def test_the_headlines(page: str) -> None:
    seen = words(page)
    assert "rounds 3 of 3 1 failed attempt beside them" in seen
    assert "accuracy 87.5% on the coordinator's test data, after round 3" in seen
    assert "density 25.0% of 2,000 parameters are kept" in seen
    assert "bytes up 1.60 kB 25.0 times less than dense float32" in seen
    assert "bytes down 1.25 kB 32.0 times less than dense float32" in seen
    assert "time in rounds 11.0 s 3.7 s for each committed round" in seen
    assert "is 40.0 kB in each direction: computed, not measured" in seen


def test_the_tables(page: str) -> None:
    seen = words(page)
    assert "1 2 of 2 1.0000 50.0% 2.000 1.00 kB 300 B 600 B 2.0 committed" in seen
    assert "2, attempt 2 2 of 2 0.7500 75.0% 1.000 500 B 200 B 400 B 3.0 committed" in seen
    assert "pi-1 2 2 20 600 B 700 B 4.0 s 0.2500 1970-01-12 13:46:40 UTC" in seen
    assert "received chunk 1.60 kB 1,600" in seen
    assert "delivered farewell 50 B 50" in seen


def test_the_plan_is_there_as_given(page: str) -> None:
    assert "<pre>[run]\nname = &#34;digits&#34;\nrounds = 3\n" in page


def test_the_chart_ends_where_the_bytes_do(page: str) -> None:
    assert "Accuracy 87.5% after 1.60 kB from all clients together" in words(page)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (99_949, "99.9 kB"), (999_600, "1.00 MB")],
)
def test_bytes_have_three_digits(number: int, text: str) -> None:
    assert bytes_text(number) == text


def test_ratios_and_durations() -> None:
    assert ratio_text(10, 125) == "12.5 times less"
    assert ratio_text(100, 80) == "1.2 times more"
    assert ratio_text(0, 80) == "nothing was sent"
    assert ratio_text(80, 0) == "more than nothing"
    assert seconds_text(59.94) == "59.9 s"
    assert seconds_text(59.96) == "1 min 0 s"
    assert seconds_text(3599.6) == "1 h 0 min"


# -- what is not there --------------------------------------------------------------------------------


def test_a_run_without_test_data_says_so(new_run: Callable[..., Path]) -> None:
    directory = new_run(b'[run]\nname = "digits"\nrounds = 3\n[pruning]\npolicy = "none"\n')
    seen = words(page_of(directory))
    assert "accuracy not measured No test data: the plan names none under [evaluate]" in seen
    assert "No round has ended yet." in seen
    assert "no comparison with dense float32" in seen


def test_a_run_that_was_not_measured_yet_says_so(small_run: Path) -> None:
    facts = facts_of(small_run)
    bare = replace(facts, attempts=tuple(replace(record, accuracy=None) for record in facts.attempts))
    assert "No version has been measured yet" in words(render_page(bare, now=0.0))


def test_a_lost_checkpoint_does_not_cost_the_page(small_run: Path) -> None:
    (small_run / "checkpoints" / "round-00003.safetensors").unlink()
    seen = words(page_of(small_run))
    assert "density unknown" in seen
    assert "round-00003.safetensors is missing" in seen
    assert "bytes up 1.60 kB no comparison with dense float32" in seen


def test_another_metric_is_not_shown_in_percent(small_run: Path) -> None:
    seen = words(render_page(replace(facts_of(small_run), metric="mse"), now=0.0))
    assert "mse 0.875 on the coordinator's test data" in seen
    assert "Mse against bytes sent up" in seen


def test_a_failure_is_told_until_the_run_goes_on() -> None:
    failed = EventRecord(time=5.0, kind="failed", detail="only 1 of 2 clients came in time")
    facts = RunFacts(
        run_id="r", metric="accuracy", planned_rounds=2, has_test_data=True, created=0.0, events=(failed,)
    )
    assert facts.failure == "only 1 of 2 clients came in time"
    assert "failed after 0 of 2 rounds" in words(render_page(facts, now=0.0))
    assert replace(facts, attempts=(round_record(1, ended=6.0),)).failure == ""
    assert replace(facts, attempts=(round_record(2, ended=4.0),)).failure == ""


def test_long_runs_make_bounded_pages() -> None:
    facts = RunFacts(
        run_id="r",
        metric="accuracy",
        planned_rounds=5000,
        has_test_data=True,
        created=0.0,
        attempts=tuple(round_record(n, accuracy=n / 5000, uplink_bytes=1) for n in range(1, 5001)),
        clients=tuple(
            ClientSummary(
                client=f"pi-{n:04}",
                updates=1,
                num_samples=1,
                uplink_bytes=1,
                received_bytes=1,
                train_s=0.0,
                loss=None,
                last_round=1,
                last_seen=0.0,
            )
            for n in range(1200)
        ),
    )
    page = render_page(facts, now=0.0)
    assert "4500 rows in the middle are left out" in words(page)
    assert "700 clients in the middle of the alphabet are left out" in words(page)
    assert "The 30 that sent most, of 1200" in words(page)
    assert len(page) < 2_000_000


# -- one page that stands alone -----------------------------------------------------------------------


def test_what_peers_say_is_text(page: str) -> None:
    assert "<script" not in page
    # The reason of the failed attempt, and the event.
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2
    assert f"failed: {MARKUP}" in words(page)


def test_names_in_charts_are_text_too(small_run: Path) -> None:
    facts = facts_of(small_run)
    clients = tuple(replace(client, client=MARKUP) for client in facts.clients)
    page = render_page(replace(facts, clients=clients, run_id=MARKUP, metric="$x<b>$"), now=0.0)
    assert "<script" not in page
    assert "<b>" not in page


def test_the_page_asks_for_nothing(page: str) -> None:
    assert "://" not in page
    assert not re.search(r"<[^>]*\s(src|srcset|data|action|poster)\s*=", page)
    assert not re.search(r"@import|<(link|iframe|object|embed)\b", page)
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert set(re.findall(r'href="(.)', page)) <= {"#"}


def test_ids_are_unique_and_references_lead_somewhere(page: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'(?:href="#|url\(#|labelledby=")([^")]+)', page)
    assert wanted
    assert set(wanted) <= set(ids)


def test_charts_take_their_colours_from_the_style_sheet(page: str) -> None:
    charts = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    assert charts.count("<svg") == 4
    assert not re.search(r"(fill|stroke): #", charts)
    defined = set(re.findall(r"(--\w+):", page))
    assert set(re.findall(r"var\((--\w+)\)", page)) <= defined


def test_the_same_run_gives_the_same_page(small_run: Path, page: str) -> None:
    assert page_of(small_run) == page


# -- the command --------------------------------------------------------------------------------------


def test_the_command_writes_into_the_run(small_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(small_run)]) == 0
    assert "87.5%" in (small_run / "report.html").read_text(encoding="utf-8")
    assert "run 'digits-1', 3 of 3 rounds" in capsys.readouterr().out
    assert [path.name for path in small_run.iterdir() if path.name.startswith(".report")] == []


def test_it_works_beside_a_coordinator(small_run: Path, tmp_path: Path) -> None:
    with RunStore.open(small_run):
        assert main(["report", str(small_run), "-o", str(tmp_path / "page.html")]) == 0


def test_a_page_that_cannot_be_written_is_a_sentence(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(small_run), "-o", str(tmp_path / "none" / "page.html")]) == 2
    assert "No such file or directory; name another file with -o" in capsys.readouterr().err


def test_no_run_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 6
    assert "there is no run in" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_a_missing_package_is_named(
    package: str, small_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **others: Any) -> object:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest, **others)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["report", str(small_run)]) == 2
    assert "pip install 'hedgerow[report]'" in capsys.readouterr().err
    assert not (small_run / "report.html").exists()


def test_importing_the_report_loads_nothing_heavy() -> None:
    script = (
        "import sys, hedgerow.report, hedgerow.inspection, hedgerow.commands.report\n"
        "heavy = {'matplotlib', 'jinja2', 'torch', 'onnx', 'onnxruntime'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    outcome = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (outcome.stdout, outcome.stderr) == ("[]\n", "")
