"""The page of `neuroscan-farm serve`: a list of 200 runs, and the heatmap of an 80-layer model that fills while watched.

    python benchmarks/run.py --only page

Runs with made-up rows, a real server in a process of its own, a real headless Chromium. A drawing is the time from the
answer's arrival to the end of Plotly's work; the longest task is what the browser itself says of its main thread.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from options import Options
from results import Measured

_RUNS, _LAYERS, _SAMPLES = 200, 80, 64
_WATCH = """() => {
  globalThis.longest = 0;
  const seen = (list) => list.getEntries().forEach((one) => { longest = Math.max(longest, one.duration); });
  new PerformanceObserver(seen).observe({ entryTypes: ["longtask"] });
}"""


def run(options: Options) -> Measured:
    """The list, then the heatmap."""
    folder = options.work / "page"
    shutil.rmtree(folder, ignore_errors=True)
    samples = 8 if options.quick else _SAMPLES
    options.say("page/list")
    for number in range(_RUNS):
        _finish(_make(folder / "many", f"run-{number:03d}", layers=6, samples=4), share=1.0)
    with _serving(folder / "many", folder) as base:
        seconds = [_seconds(f"{base}/api/v1/runs") for _ in range(6)]
        yield "page/list", {"runs": _RUNS, "first_seconds": seconds[0], "again_seconds": _middle(seconds[1:])}
    options.say("page/heatmap")
    layers = options.layers or _LAYERS
    large = _make(folder / "large", "large", layers=layers, samples=samples)
    _finish(large, share=0.5)
    with _serving(folder / "large", folder) as base:
        name = f"{base}/api/v1/runs/large/figures/heatmap-log_odds"
        answers = [_seconds(name) for _ in range(6)]
        found = _watch(base, large, rounds=options.rounds or 5)
        cells = layers * (layers + 1) // 2
        yield (
            "page/heatmap",
            {"layers": layers, "cells": cells, "samples": samples, "first_seconds": answers[0]}
            | {"again_seconds": _middle(answers[1:]), **found},
        )


def _watch(base: str, run: Any, *, rounds: int) -> dict[str, Any]:
    """Open the page and let parts arrive one by one: how long each drawing took, in milliseconds."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    drawings = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments)
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{base}/run/large")
        page.wait_for_selector(".plot .hm image", state="attached", timeout=120_000)
        page.wait_for_selector("#figures[aria-busy=false]", timeout=120_000)
        first = float(page.locator(".plot").first.get_attribute("data-milliseconds") or 0)
        page.evaluate(_WATCH)
        for _ in range(rounds):
            before = page.locator("#figures figure p").first.inner_text()
            _finish(run, parts=2)
            end = time.monotonic() + 120
            while page.locator("#figures figure p").first.inner_text() == before and time.monotonic() < end:
                page.wait_for_timeout(50)
            page.wait_for_timeout(1500)
            drawings.append(float(page.locator(".plot").first.get_attribute("data-milliseconds") or 0))
        longest = float(page.evaluate("() => globalThis.longest"))
        browser.close()
    return {"draw_ms": first, "redraw_ms": drawings, "longest_task_ms": longest}


@contextmanager
def _serving(runs_dir: Path, folder: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
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
    environment = os.environ | {
        "NEUROSCAN_BROKER_URL": "redis://127.0.0.1:1/0",
        "NEUROSCAN_CACHE_DIR": str(folder / "cache"),
    }
    base = f"http://127.0.0.1:{port}"
    with (folder / "serve.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(200):
            try:
                _seconds(f"{base}/api/v1/health")
                break
            except OSError:
                time.sleep(0.1)
        yield base
    finally:
        process.terminate()
        process.wait(30)


def _make(folder: Path, name: str, *, layers: int, samples: int) -> Any:
    """A duplication run with nothing measured yet, of a model that is not there."""
    from neuroscan_farm.analyses import get_analysis, read_request
    from neuroscan_farm.domain.probes import Probe, Sample
    from neuroscan_farm.domain.tasks import Shard
    from neuroscan_farm.store.run_directory import Manifest, RunDirectory

    probe = Probe("sums", tuple(Sample(f"s{k:03d}", f"{k}+1=", answer=str(k % 10)) for k in range(samples)))
    asked = {"analysis": "duplication", "model": f"made-up/{name}", "probes": ["sums"]}
    request = read_request(asked, where="benchmark")
    tasks = get_analysis("duplication").expand(request.parameters, depth=layers, probe_digests=[probe.digest])
    shards = [Shard.of(tasks[:1])] + [Shard.of(tasks[k : k + 40]) for k in range(1, len(tasks), 40)]
    manifest = Manifest(
        run_id=name,
        analysis="duplication",
        model=f"made-up/{name}",
        model_name=name,
        model_folder="/made-up",
        model_fingerprint="f" * 16,
        model_type="llama",
        depth=layers,
        hidden_size=64,
        probes={probe.name: probe.digest},
        n_samples={probe.name: samples},
        engine_version="1",
        scoring_version="1",
        created="2026-11-21T08:00:00+00:00",
        versions={},
    )
    return RunDirectory.create(
        folder / name,
        manifest=manifest,
        request=request,
        probes=[probe],
        shards=shards,
        plan_complete=True,
        executor="local",
    )


def _finish(run: Any, *, share: float = 1.0, parts: int | None = None) -> None:
    """Write made-up rows for the first `share` of the shards, or for the next `parts` of them."""
    import numpy as np

    from neuroscan_farm.domain.measurements import Measurement, Outcome, Score
    from neuroscan_farm.store.parts import ShardTiming
    from neuroscan_farm.store.schema import Provenance, measurement_table

    shards, done = run.shards(), run.parts.look().done
    missing = [shard for shard in shards if any(task.task_id not in done for task in shard.tasks)]
    random = np.random.default_rng(len(missing))
    samples = [(probe.name, sample.sample_id) for probe in run.probes() for sample in probe.samples]
    for shard in missing[: round(share * len(shards)) if parts is None else parts]:
        rows = []
        for task in shard.tasks:
            shift = 0.0 if task.block is None else 0.6 - 0.02 * (task.block.j - task.block.i)
            for (probe, sample), noise in zip(samples, random.normal(0, 0.5, len(samples)), strict=True):
                odds = float(shift + noise)
                score = Score(4.5, 1.25, 0.9, 2.0, "7", (0.1,) * 10, odds, odds - 1, odds > 0)
                rows.append(Measurement(task.task_id, probe, sample, Outcome.OK, None, score, 0.01))
        manifest = run.manifest
        made = Provenance(
            run_id=manifest.run_id,
            shard_id=shard.shard_id,
            analysis=manifest.analysis,
            depth=manifest.depth,
            attempt=1,
            worker="made-up",
            device="cpu",
            backend="transformers",
            dtype="float32",
            residual_dtype="float32",
            attention="sdpa",
            lane="general",
            placement="cpu",
            engine_version="1",
            scoring_version="1",
        )
        work = sum(task.path.evaluations() for task in shard.tasks)
        timing = ShardTiming(shard.shard_id, "made-up", "cpu", 1, time.time(), 60.0, len(shard.tasks), work)
        run.parts.write(shard.shard_id, measurement_table(rows, shard.tasks, made), timing)


def _seconds(url: str) -> float:
    started = time.perf_counter()
    with urllib.request.urlopen(url, timeout=120) as answer:
        answer.read()
    return round(time.perf_counter() - started, 3)


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
