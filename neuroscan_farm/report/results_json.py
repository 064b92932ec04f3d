"""`results.json` with layer-scan's field names and meanings, so that its readers go on working.

`score` is the mean expected answer value and `delta` its change, as there; `top_configs` are ordered by the
request's metric, and `ranked_by` says so. What those fields cannot say stands in our own: paths that are no
plain (i, j) duplication in `other_results`, as lists of steps (see `domain/paths.py`), configurations with failed samples
in `failed`.
"""

from __future__ import annotations

from typing import Any

from neuroscan_farm.report.configurations import Configuration, ProbeResult
from neuroscan_farm.report.findings import Findings

RESULTS_VERSION = 1


def results_json(findings: Findings, *, probe: str, top_k: int = 10) -> dict[str, Any]:
    """Return the file's content for one probe; scores that are not there are null."""
    baseline = findings.baseline.results[probe] if findings.baseline else None
    base_score = baseline.means["expected_score"] if baseline else None
    measured = [c for c in findings.configurations if c.results[probe].n_ok]
    plain = [c for c in measured if c.plain_block is not None]
    best = [c for c in findings.ranked(probe) if c.plain_block is not None][:top_k]
    failed = [c for c in findings.configurations if c.results[probe].n_failed]
    return {
        "schema_version": RESULTS_VERSION,
        "run_id": findings.manifest.run_id,
        "model": findings.manifest.model,
        "probe": probe,
        "total_layers": findings.manifest.depth,
        "baseline_score": base_score,
        "baseline_uncertainty": baseline.means["uncertainty"] if baseline else None,
        "scan_time_seconds": findings.seconds.get(probe, 0.0),
        "configs_scanned": len(plain),
        "ranked_by": findings.metric.value,
        "tasks_planned": findings.n_planned,
        "tasks_measured": findings.n_measured,
        "top_configs": [
            {"rank": rank, **_top(c, findings, probe, base_score)} for rank, c in enumerate(best, start=1)
        ],
        "all_results": [{**_block(c), **_score(c.results[probe])} for c in plain],
        "other_results": [
            {"path": list(c.path), **_score(c.results[probe])} for c in measured if c.plain_block is None
        ],
        "failed": [{"path": list(c.path), "outcome": c.results[probe].outcome_text} for c in failed],
    }


def results_files(findings: Findings, *, top_k: int = 10) -> dict[str, dict[str, Any]]:
    """Return the contents by file name: `results.json` for the first probe; a file for each of several."""
    contents = {probe: results_json(findings, probe=probe, top_k=top_k) for probe in findings.probes}
    files = {"results.json": contents[findings.probes[0]]}
    if len(contents) > 1:
        files |= {f"results-{probe}.json": content for probe, content in contents.items()}
    return files


def _top(c: Configuration, findings: Findings, probe: str, base_score: float | None) -> dict[str, Any]:
    result = c.results[probe]
    score = result.means["expected_score"]
    effect = result.effects[findings.metric]
    return {
        **_block(c),
        "block_size": _block(c)["j"] - _block(c)["i"],
        "effective_depth": c.n_layers_run,
        "score": score,
        "delta": None if score is None or base_score is None else score - base_score,
        "uncertainty": result.means["uncertainty"],
        "log_odds": result.means["log_odds"],
        "accuracy": result.means["correct"],
        "mean_coverage": result.means["coverage"],
        "effect": effect.mean,
        "effect_low": effect.low,
        "effect_high": effect.high,
        "p_adjusted": effect.p_adjusted,
        "q": effect.q,
    }


def _block(c: Configuration) -> dict[str, int]:
    assert c.plain_block is not None
    return {"i": c.plain_block.i, "j": c.plain_block.j}


def _score(result: ProbeResult) -> dict[str, float | None]:
    return {"score": result.means["expected_score"], "uncertainty": result.means["uncertainty"]}
