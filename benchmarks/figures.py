"""Writes the tables of results.json into docs/, between the pages' markers: `python benchmarks/figures.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from results import HERE, RESULTS, read

PAGE = HERE.parent / "docs" / "benchmarks.md"
STATISTICS_PAGE = HERE.parent / "docs" / "statistics.md"

# What was aimed at; beside what was reached.
GRID_TARGETS = {256: 8.0, 512: 5.5, 1024: 4.7}
PAIRS_TARGET = 7.0
PEAK_TARGETS = {"ours general": 0.75, "ours": 0.75, "ours fused": 0.90}
PEAK_HIDDEN = 512  # from this width on
STREAMING_TARGET, MEMORY_TARGET, WORKERS_TARGET = 0.70, 1.10, 1.9

Found = dict[str, Any]
Rows = Iterable[list[str]]


def write_page(results: Path = RESULTS, page: Path = PAGE, statistics_page: Path = STATISTICS_PAGE) -> None:
    """Replace what stands between the markers of each section; a section without results says so."""
    content = read(results)["measurements"]
    text = page.read_text(encoding="utf-8")
    for section, table in _TABLES.items():
        text = _between(text, section, _body(content, f"{section}/", table))
    certain = statistics_page.read_text(encoding="utf-8")
    for kind, table in _CERTAINTY.items():
        certain = _between(certain, kind, _body(content, f"statistics/{kind}", table))
    statistics_page.write_text(certain, encoding="utf-8")
    grids = {key: value for key, value in content.items() if key.startswith(("grid/", "pairs/"))}
    text = _between(text, "peak", _peak(grids) if grids else "Not measured yet.\n")
    text = _between(text, "circumstances", _circumstances(content.values()))
    page.write_text(text, encoding="utf-8")


def _body(content: dict[str, Found], start: str, table: Callable[[dict[str, Found]], str]) -> str:
    found = {key: value for key, value in content.items() if key.startswith(start)}
    return table(found) if found else "Not measured yet.\n"


def _between(text: str, name: str, body: str) -> str:
    pattern = re.compile(rf"(<!-- figures: {name} -->\n).*?(<!-- end -->)", re.S)
    if not pattern.search(text):
        raise SystemExit(
            f"the markers <!-- figures: {name} --> … <!-- end --> are missing in a page of docs/"
        )
    return pattern.sub(lambda match: f"{match[1]}\n{body}\n{match[2]}", text)


def _table(head: list[str], rows: Rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _comparison(found: dict[str, Found], *, target: Callable[[Found], float | None]) -> str:
    """Ratios of times, counts of evaluations, and agreement, for the grid and the pairs."""
    rows, notes = [], []
    for one in found.values():
        shape = one["shape"]
        evaluations = f"{one['work']['naive']:,} / {one['work']['shared']:,} / {one['work']['minimal']:,}"
        for mine, others in one["times_faster"].items():
            peer = next((name for name in others if name != "hf"), None)
            wanted = target(one)
            rows.append(
                [
                    f"{shape['hidden']} × {shape['layers']}",
                    f"{shape['probe']}, {shape['samples']} ({shape['tokens']:,} tokens)",
                    f"{one['configurations']}",
                    evaluations,
                    mine,
                    f"{others[peer]['totals']:.1f}×" if peer else "not run",
                    f"{wanted:.1f}×" if wanted else "",
                    f"{others['hf']['totals']:.1f}×" if "hf" in others else "",
                ]
            )
        notes += [note for note in one["notes"] if note not in notes]
    head = ["width × layers", "probe, samples", "configurations", "evaluations naive / shared / minimal"]
    head += ["executor", "faster than the peer", "target", "faster than batched Hugging Face"]
    return _table(head, rows) + _lines(notes) + "\n" + _agreement(found)


def _agreement(found: dict[str, Found]) -> str:
    scores = [
        (entry["largest_difference_expected_score"], entry["spread"])
        for one in found.values()
        for by_whom in one["agreement"].values()
        for name, entry in by_whom.items()
        if name != "hf"
    ]
    logs = [
        by_whom["hf"]["largest_difference_log_p"]
        for one in found.values()
        for by_whom in one["agreement"].values()
    ]
    rounding = max(one["rounding_log_p"] for one in found.values())
    text = (
        f"Agreement in these rounds: with batched Hugging Face, every digit's log-probability within {max(logs):.0e}, "
        f"where Hugging Face in float32 is {rounding:.0e} from itself in float64"
    )
    if scores:
        worst = max(difference for difference, _ in scores)
        spread = min(width for _, width in scores)
        text += (
            f"; with the peer, every configuration's expected score within {worst:.0e}, where the configurations "
            f"themselves spread over {spread:.2f} or more"
        )
    return text + ".\n"


def _grid(found: dict[str, Found]) -> str:
    return _comparison(found, target=lambda one: GRID_TARGETS.get(one["shape"]["hidden"]))


def _pairs(found: dict[str, Found]) -> str:
    return _comparison(found, target=lambda one: PAIRS_TARGET)


def _peak(found: dict[str, Found]) -> str:
    rows = []
    for key, one in found.items():
        shape = one["shape"]
        for name, share in one["of_peak"].items():
            wanted = PEAK_TARGETS.get(name) if shape["hidden"] >= PEAK_HIDDEN else None
            rows.append(
                [
                    key.partition("/")[0],
                    f"{shape['hidden']} × {shape['layers']}",
                    shape["probe"],
                    "batched Hugging Face" if name == "hf" else name,
                    f"{share['totals']:.0%}",
                    f"{wanted:.0%}" if wanted else "",
                    f"{share['minima']:.0%}",
                    f"{share['strict']:.0%}",
                ]
            )
    head = ["case", "width × layers", "probe", "who", "of the peak", "target", "best round", "strict"]
    return _table(head, rows)


def _scaling(found: dict[str, Found]) -> str:
    rows = []
    for one in found.values():
        shape, saved = one["shape"], one["work"]["naive"] / one["work"]["minimal"]
        for mine, others in one["times_faster"].items():
            cells = [str(shape["layers"]), str(shape["samples"]), f"{saved:.2f}×", mine]
            cells += [
                f"{others[n]['totals']:.1f}×" if n in others else "not run" for n in ("layer-scan", "hf")
            ]
            rows.append([*cells, f"{one['of_peak'][mine]['totals']:.0%}"])
    head = ["layers", "samples", "fewer evaluations", "executor", "faster than layer-scan"]
    return _table([*head, "faster than batched Hugging Face", "of the peak"], rows)


def _workers(found: dict[str, Found]) -> str:
    rows = [
        [
            f"{one['shape']['hidden']} × {one['shape']['layers']}",
            str(one["shards"]),
            f"{one['throughput']['totals']:.2f}×",
            f"{WORKERS_TARGET:.1f}×",
            f"{one['throughput']['minima']:.2f}×",
        ]
        for one in found.values()
    ]
    return _table(["width × layers", "shards", "two workers to one", "target", "best rounds"], rows)


def _streaming(found: dict[str, Found]) -> str:
    rows = []
    for one in found.values():
        cells = [f"{one['shape']['hidden']} × {one['shape']['layers']}", f"{one['model_mb']:,} MB"]
        cells.append(f"{one['limit_mb']:,} MB")
        if "absent" in one:
            rows.append([*cells, f"not measured: {one['absent']}", "", "", "", ""])
            continue
        cells += [f"{one['speed_of_resident']['totals']:.0%}", f"{STREAMING_TARGET:.0%}"]
        cells += [f"{one['peak_mb']:,} MB (resident: {one['resident_peak_mb']:,} MB)"]
        rows.append([*cells, f"{one['peak_of_limit']:.0%}", f"{MEMORY_TARGET:.0%} at most"])
    head = ["width × layers", "weights", "limit", "speed of resident", "target", "peak memory"]
    return _table([*head, "of the limit", "target"], rows)


def _farm(found: dict[str, Found]) -> str:
    rows = [
        [
            name,
            f"{one['shape']['hidden']} × {one['shape']['layers']}",
            str(one["shards"]),
            f"{one[name]['times_bare']['totals']:.3f}×",
            f"{one[name]['milliseconds_per_shard']:.0f} ms",
            f"{one[name]['milliseconds_per_shard'] / 60_000:.2%}",
            "3 % at most",
        ]
        for one in found.values()
        for name in ("local executor", "celery and redis")
    ]
    head = ["way", "width × layers", "shards", "time of the bare engine's", "added per shard"]
    return _table([*head, "of a shard of one minute", "target"], rows)


def _scale(found: dict[str, Found]) -> str:
    rows: list[list[str]] = []
    for one in found.values():
        if "tasks" in one:
            what = f"{one['tasks']:,} tasks"
            half = f"{what}, half of them done in {one['parts']:,} parts"
            rows += [
                [f"`submit`, {what}", f"{one['submit_seconds']} s", "20 s"],
                [
                    f"then, until the first order is sent, {what}",
                    *_s(one, "first_order_after_submit_seconds"),
                ],
                [f"`status`, {what}", f"{one['status_seconds']} s", "1 s"],
                [f"`resume`, {half}", f"{one['resume_seconds']} s", "10 s"],
                [
                    f"then, until the first order is sent, {half}",
                    *_s(one, "first_order_after_resume_seconds"),
                ],
                [f"`status`, {half}", f"{one['status_half_done_seconds']} s", "1 s"],
                ["`status`, the same after `compact`", f"{one['status_compacted_seconds']} s", "1 s"],
                [f"most memory of Redis, {what}", f"{one['redis_peak_mb']} MB", "500 MB"],
            ]
        else:
            what = f"{one['runs']} runs of {one['tasks_each']:,} tasks"
            rows += [
                [f"`submit`, one of {what}", *_s(one, "submit_seconds_median")],
                [f"until each of {what} has orders", *_s(one, "all_have_orders_after_seconds")],
                [f"`ls`, {what}", *_s(one, "ls_seconds")],
                [f"most memory of Redis, {what}", f"{one['redis_peak_mb']} MB", "500 MB"],
            ]
    return _table(["what", "measured", "target"], rows)


def _s(one: Found, name: str) -> list[str]:
    return [f"{one[name]} s", ""]


def _recovery(found: dict[str, Found]) -> str:
    rows = []
    if "recovery/farm" in found:
        one = found["recovery/farm"]
        worst = f"{max(one['seconds'])} s"
        rows.append(["another worker has the shard", f"{one['median_seconds']} s", worst, "45 s"])
    if "recovery/local" in found:
        one = found["recovery/local"]
        handed, again = one["handed_out_again_seconds"], one["measured_again_seconds"]
        rows.append(["the local executor has handed it out again", *_middle_and_worst(handed), "1 s"])
        rows.append(["a fresh local process measures it again", *_middle_and_worst(again), ""])
    return _table(["after a kill", "median", "worst", "target"], rows)


def _faults(found: dict[str, Found]) -> str:
    rows = []
    for key, one in found.items():
        hands = ", ".join(f"{what}: {often}" for what, often in one["hands"].items()) or "nothing"
        rows.append(
            [
                key.removeprefix("faults/"),
                f"{one['tasks']:,} ({one['rows']:,} rows)",
                str(sum(one["faults"].values())),
                str(one["deaths"]),
                str(one["lost"]),
                str(one["doubled"]),
                str(one["different"]),
                hands,
            ]
        )
    head = ["what", "tasks", "faults", "deaths on record", "rows lost", "doubled", "different"]
    return _table([*head, "what a person had to do"], rows)


def _page(found: dict[str, Found]) -> str:
    rows = []
    if "page/list" in found:
        one = found["page/list"]
        rows.append(
            [f"list of {one['runs']} runs, first asked after the start", f"{one['first_seconds']} s", "1 s"]
        )
        rows.append([f"list of {one['runs']} runs, asked again", f"{one['again_seconds']} s", "1 s"])
    if "page/heatmap" in found:
        one = found["page/heatmap"]
        what = f"{one['cells']:,} cells, {one['samples']} samples"
        rows.append(
            [f"heatmap of {what}: statistics and figure, first asked", f"{one['first_seconds']} s", ""]
        )
        rows.append([f"heatmap of {what}: asked again", f"{one['again_seconds']} s", ""])
        rows.append(["its first drawing in the browser", f"{one['draw_ms']:.0f} ms", ""])
        redrawn = sorted(one["redraw_ms"])
        rows.append(
            [
                "drawn anew when rows arrive, median and worst",
                f"{redrawn[len(redrawn) // 2]:.0f} ms, {redrawn[-1]:.0f} ms",
                "",
            ]
        )
        rows.append(
            ["the browser's longest task meanwhile, with all figures", f"{one['longest_task_ms']:.0f} ms", ""]
        )
    return _table(["what", "time", "target"], rows)


def _middle_and_worst(seconds: list[float]) -> list[str]:
    return [f"{sorted(seconds)[len(seconds) // 2]} s", f"{max(seconds)} s"]


def _circumstances(found: Iterable[Found]) -> str:
    lines = []
    for circumstances in [one["circumstances"] for one in found]:
        machine, versions = circumstances["machine"], circumstances["versions"]
        text = (
            f"- {circumstances['date']}, commit {circumstances['commit']}, `{circumstances['command']}`: "
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['system']}; "
            + ", ".join(f"{name} {version}" for name, version in versions.items())
        )
        if text not in lines:
            lines.append(text)
    return "\n".join(lines) + "\n" if lines else "Not measured yet.\n"


def _lines(notes: list[str]) -> str:
    return "".join(f"\n{note}.\n" for note in notes)


def _coverage(found: dict[str, Found]) -> str:
    sizes = ("8", "16", "32", "64")
    methods = (("ours", "**ours**"), ("student", "Student's t"), ("bca", "BCa"))
    rows = []
    for key, one in found.items():
        name = key.removeprefix("statistics/coverage-")
        for method, shown in methods:
            shares = one["coverage_percent"][method]
            rows.append([name if method == "ours" else "", shown, *(f"{shares[n]:.1f}" for n in sizes)])
    return _table(["differences", "interval", *(f"n = {n}" for n in sizes)], rows)


def _error(found: dict[str, Found]) -> str:
    rows = [
        [
            key.removeprefix("statistics/error-"),
            f"{one['runs']:,}",
            f"**{one['family_wise_error_percent']:.1f} %**",
            f"{one['allowed_percent']:.1f} %",
            f"{one['without_correction_percent']:.0f} %",
            f"{one['planted_found_percent']:.0f} %",
        ]
        for key, one in found.items()
    ]
    head = ["100 configurations that change nothing", "runs", "family-wise error", "allowed", "uncorrected"]
    return _table([*head, "a planted one is found"], rows)


def _time(found: dict[str, Found]) -> str:
    one = found["statistics/time"]
    what = f"{one['configurations']:,} configurations, {one['samples']} samples"
    rows = [
        [f"{what}: intervals, {one['resamples']:,} resamples", f"{one['intervals_seconds']} s"],
        [f"p-values, {one['flips']:,} flips", f"{one['p_values_seconds']} s"],
        ["the best under noise", f"{one['noise_seconds']} s"],
        ["all of it", f"{one['all_seconds']} s"],
    ]
    return _table(["what", "median time"], rows)


_CERTAINTY = {"coverage": _coverage, "error": _error, "time": _time}

_TABLES = {
    "grid": _grid,
    "pairs": _pairs,
    "scaling": _scaling,
    "workers": _workers,
    "streaming": _streaming,
    "farm": _farm,
    "scale": _scale,
    "recovery": _recovery,
    "faults": _faults,
    "page": _page,
}


if __name__ == "__main__":
    write_page()
