"""The card of a re-layered checkpoint: what it is, what the run found, what that rests on, and how to check it."""

from __future__ import annotations

from neuroscan_farm.domain.paths import LayerPath
from neuroscan_farm.report.chance import chance, chance_text
from neuroscan_farm.report.configurations import Configuration
from neuroscan_farm.report.confirmation_text import shrinkage_text
from neuroscan_farm.report.findings import Findings
from neuroscan_farm.report.metric_text import METRIC_TEXT, p_text
from neuroscan_farm.statistics.effects import Effect

_VERSIONS = ("neuroscan-farm", "transformers", "torch")


def model_card(
    findings: Findings,
    path: LayerPath,
    *,
    model: str,
    revision: str | None,
    parameters: int,
    source_parameters: int,
) -> str:
    """Return README.md for the checkpoint along `path`.

    Args:
        findings: of the run that the path was chosen in, finished or not.
        path: what the checkpoint holds; the run need not have measured it.
        model: the source as the run names it: a hub id or a folder.
        revision: of a hub id.
        parameters: elements of all tensors of the checkpoint.
        source_parameters: those of the source.
    """
    manifest = findings.manifest
    tried = [*findings.configurations, *([findings.baseline] if findings.baseline else [])]
    found = next((c for c in tried if c.path == path), None)
    name = found.label if found is not None else str(path)
    front = ["---", "library_name: transformers", "tags:", "- neuroscan-farm", "- self-merge"]
    if "/" in model and not model.startswith(("/", ".", "~")):
        front += ["base_model:", f"- {model}"]
    skipped = path.skipped(manifest.depth)
    lines = [
        *front,
        "---",
        "",
        f"# {manifest.model_name}, layers {name}",
        "",
        f"`{model}`{f' at revision `{revision}`' if revision else ''} with its layers in another order. "
        "No weight was trained or changed: they are the source's own bytes.",
        "",
        f"- layers, in order: `{path}` (counted from 0; both ends of a range are included)",
        f"- {len(path)} layers, the source has {manifest.depth}"
        + (f"; not used: {', '.join(map(str, skipped))}" if skipped else ""),
        f"- {parameters:,} parameters, the source has {source_parameters:,}",
        f"- fingerprint of the source: `{manifest.model_fingerprint}`",
        "- licence: that of the source",
        "",
        "## What was measured",
        "",
        f"Run `{manifest.run_id}`; probes: "
        + ", ".join(f"{probe} ({manifest.n_samples[probe]} samples)" for probe in findings.probes)
        + f"; {findings.n_measured} of {findings.n_planned} planned configurations are measured.",
        "",
        *_results(findings, found),
        "",
        "## How to check it",
        "",
        "```",
        f"neuroscan-farm verify <this folder> --run <the folder of run {manifest.run_id}>",
        "```",
        "",
        "loads this checkpoint by plain transformers, asks it the run's questions, and compares its logits and scores with "
        "those of the source along the same layers. `neuroscan.json` holds the digests of the files, "
        "`verification.json` the certificate once that was done.",
        "",
        "Made with "
        + ", ".join(f"{name} {manifest.versions[name]}" for name in _VERSIONS if name in manifest.versions)
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _results(findings: Findings, found: Configuration | None) -> list[str]:
    if found is None:
        return ["This order of layers is not among the run's configurations: nothing is known of its effect."]
    if findings.baseline is not None and found.task_id == findings.baseline.task_id:
        return ["This is the untouched order of layers, which all others are compared with."]
    text = METRIC_TEXT[findings.metric]
    lines = [
        f"| probe | {text.label} | 95 % interval | paired samples | p, corrected | q | rank |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for probe in findings.views:
        result = found.results[probe]
        effect = result.effects.get(findings.metric)
        if effect is None:
            why = result.unranked or result.outcome_text
            lines.append(f"| {findings.view_name(probe)} | none: {why} | | | | | |")
            continue
        rank = f"{result.rank}" if result.rank is not None else f"none: {result.unranked or 'not ranked'}"
        lines.append(
            f"| {findings.view_name(probe)} | {text.change(effect.mean)} | {_interval(effect, text.interval(effect))} | "
            f"{effect.n} | {p_text(effect.p_adjusted)} | {p_text(effect.q)} | {rank} |"
        )
    lines += [
        "",
        f"The change is against the untouched model, on the metric `{findings.metric.value}`. The interval is of this "
        "configuration alone; p is corrected for all configurations of the run, q is the false discovery rate among them; "
        "a dash says that the run does not tell.",
        "",
        chance_text(chance(findings)),
        "",
    ]
    confirmation = findings.confirmation
    held_out = [one for one in confirmation.best if one.task_id == found.task_id] if confirmation else []
    if confirmation is None:
        lines.append(
            "No samples were held out: the best of many is flattered by having been chosen, so measure it on questions that "
            "took no part in the choice."
        )
    elif not held_out:
        lines.append("It is not among the best that were confirmed on the samples held out.")
    for one in held_out:
        effect, name = one.confirmed, findings.view_name(one.probe)
        if effect is None:
            lines.append(f"- on the samples held out, {name}: none, {one.reason}")
            continue
        lines.append(
            f"- on {effect.n} samples held out, {name}: {text.change(effect.mean)} {text.unit}, 95 % interval "
            f"{_interval(effect, text.interval(effect))}, p {p_text(effect.p_adjusted)}, against "
            f"{text.change(one.chosen.mean)} on the samples that chose it: {shrinkage_text(one)}"
        )
    return lines


def _interval(effect: Effect, text: str) -> str:
    return text if effect.low is not None else f"none: {effect.no_interval or 'too few samples'}"
