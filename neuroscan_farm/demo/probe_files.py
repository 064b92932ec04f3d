"""The bundled `demo-*.json` probes: unseen prompts of each family, the same bytes every time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

from neuroscan_farm.demo.families import FAMILIES, Family, Task, unseen_tasks

SAMPLES = 32
SEED = 7
MOST_PER_ANSWER = 4
"""No digit is the answer more often than this, so that a constant answer scores at most 4 of 32."""


def probe_tasks(family: Family) -> list[Task]:
    """Choose a probe's tasks: unseen in training, all different, answers balanced, kinds nearly so.

    Kinds are not forced to be equal, since few of the shortest sums are unseen.
    """
    most_per_kind = SAMPLES // len(family.kinds) + 3
    answers: Counter[str] = Counter()
    prompts: set[str] = set()
    kinds: Counter[str] = Counter()
    chosen: list[Task] = []
    for task in unseen_tasks(family, Random(f"{SEED}/probe/{family.name}")):
        room = kinds[task.kind] < most_per_kind and answers[task.answer] < MOST_PER_ANSWER
        if room and task.prompt not in prompts:
            answers[task.answer] += 1
            prompts.add(task.prompt)
            kinds[task.kind] += 1
            chosen.append(task)
        if len(chosen) == SAMPLES:
            break
    return chosen


def write_probes(folder: Path) -> list[Path]:
    """Write one probe file for each family and return their paths."""
    written = []
    for family in FAMILIES.values():
        samples = [
            {
                "prompt": task.prompt,
                "answer": task.answer,
                "category": family.name,
                "metadata": {"kind": task.kind},
            }
            for task in probe_tasks(family)
        ]
        probe = {
            "name": f"demo-{family.name}",
            "description": f"{family.description} (for the demo model)",
            "scoring": "digits",
            "samples": samples,
        }
        path = folder / f"demo-{family.name}.json"
        path.write_text(json.dumps(probe, indent=2) + "\n", encoding="utf-8")
        written.append(path)
    return written
