"""One comparison: everybody carries out the same configurations on the same model and probe, in turn, and agrees.

The grid and the ablated pairs are both measured here; the sections say which paths, which peer and how often.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agreement import compare_with_hf, compare_with_peer
from counting import Steps, work_of
from interleaving import Arena, Turn, interleave, ratios, seconds_of, shares_of_peak
from questions import write_probe
from random_model import write_model
from requests_of_bench import lanes

OURS = "ours"


@dataclass(frozen=True, slots=True)
class Shape:
    """What is measured on: a random model and a probe."""

    family: str
    hidden: int
    layers: int
    samples: int
    probe: str  # a kind of questions.py


@dataclass(frozen=True, slots=True)
class Case:
    """The configurations of one comparison."""

    what: str  # for the page
    paths: Mapping[str, Steps]  # by the peer's name of a configuration; without the baseline
    parameters: Mapping[str, Any]  # of our request
    peer: str | None  # "layer-scan", "neuro-scan", or None
    peer_round: Mapping[str, Any]  # what the peer's round is called with, besides the samples


def compare(
    case: Case,
    shape: Shape,
    *,
    work: Path,
    threads: int,
    rounds: int,
    peers: Path | None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Measure one case and return what results.json keeps of it."""
    model = write_model(work, family=shape.family, hidden=shape.hidden, layers=shape.layers)
    probe = write_probe(work / "probes", shape.probe, shape.samples)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    paths = [list(range(shape.layers)), *map(list, case.paths.values())]
    names = {f"{OURS} {lane}".strip(): lane for lane in lanes()}
    with Arena(work, threads=threads) as arena:
        turns: dict[str, Turn] = {}
        both: dict[str, Any] = {"model": str(model), "probe": str(probe), "threads": threads}
        notes: list[str] = []
        if case.peer is not None and peers is None:
            notes.append(
                f"{case.peer} was not measured: its environment is missing (python benchmarks/peers.py)"
            )
        elif case.peer is not None:
            theirs = arena.start(case.peer, "serve_peer.py", case.peer, python=peers)
            turns[case.peer] = lambda: theirs.ask("round", samples=shape.samples, **case.peer_round)
        reference = arena.start("hf", "serve_hf.py")
        turns["hf"] = lambda: reference.ask("round", paths=paths)
        ours = {name: arena.start(name, "serve_ours.py") for name in names}
        peak = arena.start("peak", "serve_peak.py")
        arena.wait()
        if case.peer in turns:
            theirs.ask("load", **both)
        loaded_hf = reference.ask("load", **both)
        loaded = {}
        for name, contender in ours.items():
            loaded[name] = contender.ask(
                "load",
                work=str(arena.folder(name)),
                lane=names[name],
                parameters=dict(case.parameters),
                **both,
            )
            turns[name] = lambda contender=contender: contender.ask("round")
        peak.ask("load", threads=threads)
        turns["peak"] = lambda: peak.ask("round")
        answers = interleave(turns, rounds=rounds, say=say)
        peaks = answers.pop("peak")
        rows = {name: contender.ask("rows")["rows"] for name, contender in ours.items()}
        scores = reference.ask("scores", paths=paths)
    lengths, common = loaded_hf["lengths"], loaded_hf["common_prefix"]
    counted = asdict(work_of([tuple(path) for path in paths], config, lengths, common=common))
    seconds, worked = seconds_of(answers), seconds_of(answers, "processor_seconds")
    agreement = {name: {"hf": compare_with_hf(found, paths, scores["log_p"])} for name, found in rows.items()}
    if case.peer in answers:
        first = answers[case.peer][0]
        for name, found in rows.items():
            agreement[name][case.peer] = compare_with_peer(
                found, case.paths, first["scores"], first["baseline"]
            )
    others = [name for name in answers if name not in ours]
    return {
        "shape": asdict(shape) | {"tokens": sum(lengths), "common_prefix": common},
        "what": case.what,
        "configurations": len(case.paths),
        "shards": next(iter(loaded.values()))["shards"],
        "rounds": rounds,
        "threads": threads,
        "hf_batching": loaded_hf["batching"],
        "work": counted,
        "seconds": seconds,
        "processor_seconds": worked,
        "peak_flops_per_second": [answer["flops_per_second"] for answer in peaks],
        "peak_of": sorted({answer["of"] for answer in peaks}),
        "times_faster": {
            mine: {other: ratios(seconds, of=other, to=mine) for other in others} for mine in ours
        },
        "less_processor_time": {
            mine: {other: ratios(worked, of=other, to=mine) for other in others} for mine in ours
        },
        "of_peak": shares_of_peak(seconds, [answer["flops_per_second"] for answer in peaks], counted),
        "agreement": agreement,
        "rounding_log_p": scores["rounding"],
        "notes": notes,
    }
