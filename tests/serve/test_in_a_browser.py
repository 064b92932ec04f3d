"""The page in a real headless Chromium: a run is submitted, fills its heatmap, is clicked, and outlives its server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
import yaml

from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.report.metric_text import p_text
from neuroscan_farm.serve.app import make_app
from neuroscan_farm.serve.config import ServeConfig
from neuroscan_farm.store.run_directory import Manifest
from tests.report import conftest as paper
from tests.serve.browser import a_browser, watched_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_NOWHERE = "redis://127.0.0.1:1/0"
_TOKEN = "a-token-that-nobody-guesses"
OpenPage = Callable[..., Any]

# Scrolls to a cell of the first figure, and tells its middle in the viewport: [x, y].
_MIDDLE = """([x, y]) => {
  const plot = document.querySelector(".plot"), { xaxis, yaxis } = plot._fullLayout;
  const middle = () => {
    const box = plot.getBoundingClientRect();
    return [box.left + xaxis._offset + xaxis.l2p(x), box.top + yaxis._offset + yaxis.l2p(y)];
  };
  window.scrollBy(0, middle()[1] - innerHeight / 2);
  return middle();
}"""
# How many cells of the first heatmap have a change.
_FILLED = """() => (document.querySelector(".plot")?.data ?? []).filter((trace) => trace.name === "change")
  .flatMap((trace) => trace.customdata.flat()).filter((row) => row !== null).length"""
# Whether the first figure fades what does not stand out.
_FADED = "() => document.querySelector('.plot').data.some((trace) => /0.05 or more/.test(trace.name))"
# Pixels from the title of the first figure's x axis to its legend.
_GAP = """() => {
  const box = (part) => document.querySelector(`.plot ${part}`).getBoundingClientRect();
  return box(".legend").top - box(".xtitle").bottom;
}"""
# Makes the page read everything anew, as an event would.
_LOOK_AGAIN = "() => document.dispatchEvent(new Event('visibilitychange'))"
_OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(there: Callable[[], bool], *, seconds: float = 40.0) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)


def answers(base: str) -> bool:
    try:
        with urllib.request.urlopen(f"{base}/api/v1/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@contextmanager
def serving(runs_dir: Path, cache: Path, **options: Any) -> Iterator[str]:
    """A server in a thread of this process; its address."""
    port = free_port()
    config = ServeConfig(
        runs_dir=runs_dir, port=port, broker_url=_NOWHERE, cache_dir=cache, poll_seconds=0.2, **options
    )
    server = uvicorn.Server(uvicorn.Config(make_app(config), port=port, log_level="warning", ws="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    base = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(base))
        yield base
    finally:
        server.should_exit = server.force_exit = True
        thread.join(20)


def failing(probe: str, task: Any, sample: int, random: Any) -> tuple[float, Outcome]:
    """Blocks from the first layer on lose a sample; the others are as always."""
    value, _ = paper.early_hurts_middle_helps(probe, task, sample, random)
    bad = task.block is not None and task.block.i == 0 and task.block.j > 4
    return value, Outcome.NON_FINITE if bad and sample == 1 else Outcome.OK


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on paper: two of different depth, one with failures and several probes, one that is half done."""
    root = tmp_path_factory.mktemp("runs")

    def make(name: str, **options: Any) -> None:
        with pytest.MonkeyPatch.context() as patch:  # each of them a run of its own
            patch.setattr(paper, "Manifest", lambda **fields: Manifest(**fields | {"run_id": name}))
            paper.build_run(root / name, **options)

    make("shallow", depth=8, n_samples=12, model="acme/<img src=x onerror=alert(1)>")
    make("deep", depth=16, n_samples=12, model="acme/deep", seed=3)
    make("troubled", depth=8, n_samples=8, probes=("math", "eq"), behaviour=failing)
    make("half", depth=8, share=0.5, shard_size=6)
    return root


@pytest.fixture(scope="module")
def base(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(runs, tmp_path_factory.mktemp("cache")) as base:
        yield base


@pytest.fixture
def open_page(browser: Browser, base: str) -> OpenPage:
    """Return a context manager that opens an address of the server with the runs on paper."""

    @contextmanager
    def opened(address: str, **options: Any) -> Iterator[Page]:
        with watched_page(browser, base, **options) as page:
            page.goto(address)
            yield page

    return opened


def drawn(page: Page) -> None:
    """Wait until the first figure stands."""
    page.wait_for_selector(
        ".plot .cartesianlayer .hm image, .plot .cartesianlayer .barlayer", state="attached"
    )
    page.wait_for_selector("#figures[aria-busy=false]")


# ---- a run, from the form to the YAML, and through the death of its server


@contextmanager
def process(runs_dir: Path, port: int, models: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`neuroscan-farm serve` in a process of its own, without a broker."""
    command = [
        sys.executable,
        "-m",
        "neuroscan_farm",
        "serve",
        "--port",
        str(port),
        "--runs-dir",
        str(runs_dir),
    ]
    environment = os.environ | {"NEUROSCAN_BROKER_URL": _NOWHERE, "NEUROSCAN_SERVE_MODELS": str(models)}
    with log.open("ab") as output:
        started = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(20)
        finally:
            started.kill()


def test_a_run_submitted_in_the_page_fills_its_heatmap_gives_its_yaml_and_outlives_the_server(
    browser: Browser, tiny_llama: Path, tmp_path: Path
) -> None:
    port, runs_dir, log = free_port(), tmp_path / "runs", tmp_path / "serve.log"
    runs_dir.mkdir()
    base = f"http://127.0.0.1:{port}"
    with watched_page(browser, base, may_be_away=True, accept_downloads=True) as page:
        with process(runs_dir, port, tiny_llama.parent, log) as first:
            wait_until(lambda: answers(base))
            page.goto("/")
            page.get_by_text("There are no runs yet.").wait_for()
            page.locator("#empty").get_by_role("link", name="Submit a run").click()
            page.get_by_label("model", exact=True).fill(str(tiny_llama))
            page.get_by_label("demo-chain 32 samples").check()
            page.get_by_label("demo-recall 32 samples").check()
            page.locator("summary", has_text="More:").click()
            page.get_by_label("shard size").fill("1")
            page.get_by_role("button", name="Submit").click()
            page.wait_for_url("**/run/*")
            page.locator("#state", has_text=re.compile("queued|running")).wait_for()
            wait_until(lambda: page.evaluate(_FILLED) > 0, seconds=60)
            early = page.evaluate(_FILLED)
            first.kill()  # without a word
            first.wait()
            page.locator("#connection", has_text="The server does not answer").wait_for()
        assert page.evaluate(_FILLED) >= early, "what was there stays"
        with process(runs_dir, port, tiny_llama.parent, log):
            page.locator("#connection").wait_for(state="hidden", timeout=30_000)
            resume = page.get_by_role("button", name="Resume")
            state = page.locator("#state")
            wait_until(lambda: state.inner_text() == "finished" or resume.count() > 0)
            if state.inner_text() != "finished" and resume.count():
                resume.click()
            page.locator("#state", has_text="finished").wait_for(timeout=90_000)
            wait_until(lambda: page.evaluate(_FILLED) == 21)
            page.mouse.click(*page.evaluate(_MIDDLE, [4, 2]))
            cell = page.locator("#cell")
            cell.get_by_role("heading", name="(2, 4)").wait_for()
            assert "0..3,2..5" in cell.inner_text()
            assert cell.locator("svg.samples").count() == 2
            with page.expect_download() as download:
                cell.get_by_role("link", name="YAML").click()
            merge = yaml.safe_load(Path(download.value.path()).read_text())
            assert [part["sources"][0]["layer_range"] for part in merge["slices"]] == [[0, 4], [2, 6]]
            assert download.value.suggested_filename.endswith(".yaml")
            page.reload()  # the address names the cell
            page.locator("#cell").get_by_role("heading", name="(2, 4)").wait_for()


# ---- the form


def test_what_is_wrong_in_a_form_is_said_beside_the_field(open_page: OpenPage) -> None:
    with open_page("/new", expected=("422",)) as page:
        page.get_by_role("button", name="Submit").click()
        page.locator('[data-field="probes"] .error', has_text="choose at least one").wait_for()
        page.get_by_label("math 30 samples").check()
        page.get_by_label("min block").fill("three")
        page.get_by_label("model", exact=True).fill("somebody/else")
        page.get_by_role("button", name="Submit").click()
        page.locator('[data-field="model"] .error', has_text="may not be submitted here").wait_for()
        page.get_by_label("model", exact=True).fill("demo")
        page.get_by_role("button", name="Submit").click()
        wrong = page.locator('[data-field="parameters.min_block"]:not([hidden] *)')
        wrong.locator(".error", has_text="three").wait_for()
        assert page.get_by_label("min block").get_attribute("aria-invalid") == "true"
        assert page.get_by_label("min block").evaluate("(field) => field === document.activeElement")
        assert page.locator('[data-field="model"] .error').is_hidden()


def test_a_form_asks_for_the_parameters_of_the_analysis_that_is_chosen(open_page: OpenPage) -> None:
    with open_page("/new") as page:
        assert page.get_by_label("min block").is_visible()
        page.get_by_label("circuits: leave out").check()
        assert page.get_by_label("strategy").is_visible()
        assert not page.get_by_label("min block").is_visible()


# ---- the list


def test_filters_are_in_the_address_and_an_empty_list_says_what_to_do(open_page: OpenPage) -> None:
    with open_page("/?state=finished") as page:
        page.locator("#runs tbody tr").first.wait_for()
        assert page.get_by_label("State").input_value() == "finished"
        assert page.locator("#runs tbody tr").count() == 3
        page.get_by_label("Text").fill("deep")
        page.locator("#runs-lead", has_text="1 of 4 runs").wait_for()
        assert "text=deep" in page.url
        page.go_back()
        page.locator("#runs-lead", has_text="3 of 4 runs").wait_for()
        assert page.get_by_label("Text").input_value() == ""
        page.get_by_label("Text").fill("nobody has this")
        page.get_by_text("No run fits the filters.").wait_for()
        page.get_by_role("button", name="Show all runs").click()
        page.locator("#runs-lead", has_text=re.compile("^4 runs")).wait_for()
        assert "text" not in page.url


def test_the_list_tells_progress_and_the_best_with_its_interval(open_page: OpenPage) -> None:
    with open_page("/") as page:
        row = page.locator('#runs tr[data-run="deep"]')
        row.locator("td", has_text=re.compile(r"^[+-]\d\.\d+ to [+-]\d\.\d+$")).wait_for()
        assert "137 of 137" in row.inner_text()
        assert page.locator('#runs tr[data-run="half"] .state').inner_text() == "stopped"


# ---- one run


def test_a_finger_and_a_keyboard_open_a_cell(open_page: OpenPage) -> None:
    with open_page("/run/deep") as page:
        drawn(page)
        page.locator(".plot-frame").first.focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
            page.keyboard.press(key)
        page.locator("#cell").get_by_role("heading", name="(1, 3)").wait_for()
        assert page.locator("#cell").evaluate("(cell) => cell === document.activeElement")
        page.keyboard.press("Escape")
        assert page.locator("#cell").is_hidden()
        assert page.locator(".plot-frame").first.evaluate("(frame) => frame === document.activeElement")
    small = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with open_page("/run/deep", **small) as page:
        drawn(page)
        page.touchscreen.tap(*page.evaluate(_MIDDLE, [9, 5]))
        page.locator("#cell").get_by_role("heading", name="(5, 9)").wait_for()


def test_probe_metric_and_mask_change_what_is_shown_and_stay_in_the_address(open_page: OpenPage) -> None:
    with open_page("/run/troubled") as page:
        drawn(page)
        first = page.locator("#figures figure h3").first
        page.get_by_label("Probe").select_option("eq")
        page.locator("#table-view", has_text="eq").wait_for()
        page.get_by_label("Metric").select_option("correct")
        page.locator("#figures h3", has_text="accuracy").first.wait_for()
        page.locator("#table thead", has_text="percentage points").wait_for()
        page.get_by_label("Only what stands out").check()
        wait_until(lambda: page.evaluate(_FADED))
        assert all(part in page.url for part in ("probe=eq", "metric=correct", "significant=1"))
        page.reload()
        drawn(page)
        assert page.get_by_label("Probe").input_value() == "eq"
        assert "accuracy" in first.inner_text()


def test_the_table_is_sorted_and_paged_by_the_server(open_page: OpenPage) -> None:
    with open_page("/run/deep") as page:
        page.locator("#shown", has_text="1 to 50 of 136").wait_for()
        page.get_by_role("button", name="Next").click()
        page.locator("#shown", has_text="51 to 100 of 136").wait_for()
        page.reload()
        page.locator("#shown", has_text="51 to 100 of 136").wait_for()
        page.go_back()
        page.locator("#shown", has_text="1 to 50 of 136").wait_for()
        path = page.locator("#table td.path", has_text=re.compile(r"^0\.\.\d+,\d")).first
        assert path.locator("wbr").count() == 1, "a path is broken after a comma"
        assert path.evaluate("(cell) => getComputedStyle(cell).overflowWrap") == "normal"
        page.locator("#table thead").get_by_role("button", name="layers run").click()
        page.locator("#shown", has_text="1 to 50 of 136").wait_for()
        assert page.locator("#table tbody tr").first.locator("td").nth(3).inner_text() == "32"
        page.locator("#table tbody tr").first.get_by_role("button").click()
        page.locator("#cell").get_by_role("heading", name="(0, 16)").wait_for()


def test_failures_are_grouped_and_can_be_tried_again(open_page: OpenPage) -> None:
    with open_page("/run/troubled") as page:
        failures = page.locator("#failures")
        failures.get_by_text("made up: non_finite").wait_for()
        assert failures.locator("tbody tr").count() == 1
        assert failures.get_by_role("button", name="Retry 4 failed tasks").is_enabled()


def test_what_is_measured_so_far_is_shown_of_a_run_that_stands_still(open_page: OpenPage) -> None:
    with open_page("/run/half") as page:
        drawn(page)
        assert 0 < page.evaluate(_FILLED) < 36
        assert page.get_by_role("button", name="Resume").is_visible()
        assert "nobody carries it out" in page.locator("#actions").inner_text().lower()


def test_what_an_action_was_refused_is_said_until_it_is_dismissed(open_page: OpenPage) -> None:
    with open_page("/run/half", expected=("409", "422")) as page:
        drawn(page)
        page.get_by_role("button", name="Resume").click()
        refused = page.locator("#refused [role=alert]", has_text="Resume did not work")
        refused.wait_for()
        for _ in range(3):  # the third begins when the second is through
            with page.expect_response(re.compile(r"/runs/half$")):
                page.evaluate(_LOOK_AGAIN)
        assert refused.is_visible()
        refused.get_by_role("button", name="dismiss").click()
        assert refused.count() == 0


def test_a_run_that_is_damaged_says_why_and_one_that_is_deleted_is_not_asked_for_again(
    browser: Browser, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs / "half", tmp_path / "runs" / "doomed")
    with (
        serving(tmp_path / "runs", tmp_path / "cache") as base,
        watched_page(browser, base, expected=("404", "409")) as page,
    ):
        page.goto("/run/doomed")
        drawn(page)
        manifest = tmp_path / "runs" / "doomed" / "manifest.json"
        manifest.write_text("{")
        page.locator("#trouble [role=alert]", has_text="manifest.json").wait_for()
        shutil.rmtree(manifest.parent)
        page.locator("#gone", has_text="not there any more").wait_for()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.wait_for_timeout(2500)  # the first of the tries again would come after a second
        assert not asked
        assert page.locator("#connection").is_hidden()
        assert page.locator("#trouble").inner_text() == ""
        assert page.locator("main section:visible, main button:visible").count() == 0


def test_a_run_that_never_was_is_said_with_a_way_to_those_that_are(open_page: OpenPage) -> None:
    with open_page("/run/nobody", expected=("404",)) as page:
        page.locator("#gone", has_text="There is no run of this name").wait_for()
        assert "/api/" not in page.locator("main").inner_text()
        assert page.get_by_text("Reading the rows").is_hidden()
        page.locator("#lead").get_by_role("link").click()
        page.locator("#runs tbody tr").first.wait_for()


def test_a_click_leaves_no_tooltip_and_the_keys_of_the_toolbar_are_its_own(open_page: OpenPage) -> None:
    with open_page("/run/deep") as page:
        drawn(page)
        tooltip, cell = page.locator(".plot .hovertext"), page.locator("#cell")
        x, y = page.evaluate(_MIDDLE, [14, 9])
        page.mouse.move(x - 3, y)
        tooltip.first.wait_for()
        wide = page.evaluate("() => document.querySelector('.plot')._fullLayout.width")
        page.mouse.click(x, y)
        cell.get_by_role("heading", name="(9, 14)").wait_for()
        page.wait_for_function(
            "(wide) => document.querySelector('.plot')._fullLayout.width !== wide", arg=wide
        )
        page.wait_for_timeout(300)  # a tooltip takes its time
        assert tooltip.count() == 0, "another cell lies under the pointer now"
        page.mouse.move(*page.evaluate(_MIDDLE, [12, 3]))
        tooltip.first.wait_for()

        cell.get_by_role("button", name="close").click()
        page.locator(".plot-frame").first.focus()
        page.keyboard.press("Tab")
        here = "() => [...document.querySelectorAll('.modebar-btn')].indexOf(document.activeElement)"
        assert page.evaluate(here) == 0
        page.keyboard.press("ArrowRight")
        assert page.evaluate(here) == 1
        page.keyboard.press("Enter")
        assert cell.is_hidden()
        assert page.locator(".cursor:visible").count() == 0, "the keys belong to the button"
        page.keyboard.press("Tab")
        assert page.evaluate("() => document.activeElement.closest('.modebar')") is None, "one stop for all"


def test_a_p_value_is_written_as_in_the_report(open_page: OpenPage) -> None:
    values = [None, 0.0, 0.00005, 0.00099, 0.001, 0.0123, 0.0999, 0.1, 0.456, 1.0]
    with open_page("/run/half") as page:
        written = "async (values) => values.map((await import('/static/words.js')).probability)"
        assert page.evaluate(written, values) == [p_text(value) for value in values]


def test_text_of_models_and_probes_is_never_markup(open_page: OpenPage) -> None:
    with open_page("/run/shallow") as page:
        drawn(page)
        assert page.locator("#name").inner_text() == "<img src=x onerror=alert(1)>"
        page.locator("#table tbody tr").first.get_by_role("button").click()
        page.locator("#cell summary").click()
        page.locator("#cell td", has_text="<script>alert(").first.wait_for()
        assert page.locator("img, main script").count() == 0


# ---- compare, workers, signing in


def test_two_runs_stand_side_by_side_on_relative_depth(open_page: OpenPage) -> None:
    with open_page("/compare?a=shallow&b=deep") as page:
        page.locator("#said-of-both", has_text="matched by share of depth").wait_for()
        wait_until(lambda: page.locator(".plot .hm image").count() >= 2)
        ticks = page.locator(".plot .xtick").all_text_contents()
        assert ticks.count("50 %") == 2
        page.mouse.move(*page.evaluate(_MIDDLE, [4, 2]))
        page.locator("#counterpart", has_text="B (4, 8)").wait_for()
        page.get_by_role("button", name="Swap").click()
        page.wait_for_url("**/compare?a=deep&b=shallow**")
        wait_until(lambda: page.locator(".plot .hm image").count() >= 2)
        limits = """() => [...document.querySelectorAll(".plot")].map((plot) => {
          const trace = plot.data.find((one) => one.name === "change");
          return [-trace.zmin, trace.zmax, Math.max(...trace.colorbar.tickvals)];
        })"""
        first, second = page.evaluate(limits)
        assert first == second
        assert len(set(first)) == 1
        assert "the same range of colours" in page.locator("#shared").inner_text()
        page.go_back()
        page.locator("#said-of-both li").first.get_by_text("shallow").wait_for()
        assert page.get_by_label("Run A").input_value() == "shallow"
    with open_page("/compare?a=shallow&b=troubled", expected=("422",)) as page:
        page.locator("#said-of-both [role=alert]").wait_for()  # their probes have other samples
    with open_page("/compare?a=shallow&b=nobody", expected=("404",)) as page:
        page.locator("#said-of-both [role=alert]", has_text="There is no run nobody").wait_for()


def test_workers_say_why_there_are_none(open_page: OpenPage) -> None:
    with open_page("/workers") as page:
        page.get_by_text("No broker answers.").wait_for()
        assert "neuroscan-farm up" in page.locator("#empty").inner_text()


def test_a_worker_at_work_is_not_called_ready(open_page: OpenPage) -> None:
    def row(name: str, run: str | None) -> dict[str, Any]:
        known = {"host": "node", "device": "cpu", "draining": False, "shard": None, "task": None}
        known |= {"model": None, "memory_mb": None, "heartbeat_age": 1.0, "version": "0", "up_seconds": 9.0}
        return known | {"name": name, "state": "ready", "run": run, "busy_seconds": None}

    farm = {"broker": "up", "says": "", "local": {"running": None, "queue": []}}
    with open_page("/new") as page:
        answer = farm | {"workers": [row("busy", "deep"), row("idle", None)]}
        page.route("**/api/v1/workers", lambda route: route.fulfill(json=answer))
        page.goto("/workers")
        page.locator("#workers tr", has_text="busy").locator(".state", has_text="working").wait_for()
        assert page.locator("#workers tr", has_text="idle").locator(".state").inner_text() == "ready"


def test_a_server_with_a_token_asks_for_it(browser: Browser, runs: Path, tmp_path: Path) -> None:
    with (
        serving(runs, tmp_path / "cache", token=_TOKEN) as base,
        watched_page(browser, base, expected=("401",)) as page,
    ):
        page.goto("/")
        page.wait_for_url("**/login")
        page.get_by_label("Token").fill("not-the-token-of-it")
        page.get_by_role("button", name="Sign in").click()
        page.locator("[role=alert]").wait_for()
        page.get_by_label("Token").fill(_TOKEN)
        page.get_by_role("button", name="Sign in").click()
        page.locator("#runs tbody tr").first.wait_for()
        assert _TOKEN not in page.url
        assert page.evaluate("() => document.cookie") == "", "no script can read the cookie"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_a_narrow_screen_in_both_themes(open_page: OpenPage, scheme: str) -> None:
    small = {
        "viewport": {"width": 390, "height": 844},
        "has_touch": True,
        "is_mobile": True,
        "color_scheme": scheme,
    }
    for address, there in (
        ("/", "#runs tbody tr"),
        ("/run/deep", "#table tbody tr"),
        ("/compare?a=shallow&b=deep", "#matched tbody tr"),
        ("/workers", ".blank"),
        ("/new", "#send"),
    ):
        with open_page(address, **small) as page:
            page.locator(there).first.wait_for()
            if address.startswith("/run"):
                drawn(page)
                assert page.get_by_text("Tap a cell").is_visible()
                assert page.locator("#table td:visible", has_text=re.compile("^$")).count() == 0
                assert page.evaluate(_GAP) >= 2, "the legend touches the title of the axis"
            assert page.evaluate(_OVERFLOW) <= 0, f"{address} scrolls sideways"
            shade = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
            assert (int(re.findall(r"\d+", shade)[0]) < 60) == (scheme == "dark")
