"""The ok rows of one probe as numbers: a row for each task, a column for each sample, in sorted order."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from neuroscan_farm.domain.measurements import Outcome

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SampleMatrix:
    """One probe's scores. Tasks and samples are sorted, so equal rows in any order give equal matrices."""

    probe: str
    tasks: tuple[str, ...]
    scores: dict[str, Floats]  # column -> [tasks, samples]; NaN where no ok row has a finite number
    rows: dict[str, int] = field(default_factory=dict)  # task -> its row
    samples: tuple[str, ...] = ()  # the columns' sample ids

    def only(self, samples: Container[str]) -> SampleMatrix:
        """Return the matrix of these samples alone."""
        kept = [column for column, sample in enumerate(self.samples) if sample in samples]
        scores = {name: values[:, kept] for name, values in self.scores.items()}
        return replace(self, scores=scores, samples=tuple(self.samples[column] for column in kept))

    def without(self, samples: Container[str]) -> SampleMatrix:
        """Return the matrix of all other samples."""
        return self.only({sample for sample in self.samples if sample not in samples})

    def means(self, column: str) -> dict[str, float | None]:
        """Return each task's mean over its ok samples; None where no sample has a number."""
        values = self.scores[column]
        present = np.isfinite(values)
        counts = present.sum(axis=1).tolist()
        # fsum is exact: a task's mean depends neither on its neighbours nor on the machine's vector width.
        sums = [math.fsum(row) for row in np.where(present, values, 0.0).tolist()]
        return {
            task: total / count if count else None
            for task, total, count in zip(self.tasks, sums, counts, strict=True)
        }


def sample_matrices(rows: pa.Table, columns: Sequence[str]) -> dict[str, SampleMatrix]:
    """Return the matrices of the measurement rows, by probe in sorted order.

    Args:
        rows: measurements with `task_id`, `probe`, `sample_id`, `outcome` and `columns`; each
            (task, probe, sample) at most once, as `Parts.read` gives them.
        columns: numbers or booleans; booleans become 0 and 1.
    """
    rows = rows.filter(pc.equal(rows["outcome"], Outcome.OK.value))
    tasks, task_codes = _codes(rows["task_id"])
    probes, probe_codes = _codes(rows["probe"])
    samples, sample_codes = _codes(rows["sample_id"])
    values = {name: rows[name].cast(pa.float64()).to_numpy() for name in columns}
    matrices = {}
    for code, probe in enumerate(probes):
        mine = probe_codes == code
        used_tasks, task_rows = np.unique(task_codes[mine], return_inverse=True)
        used_samples, sample_columns = np.unique(sample_codes[mine], return_inverse=True)
        scores = {}
        for name in columns:
            scores[name] = np.full((len(used_tasks), len(used_samples)), np.nan)
            scores[name][task_rows, sample_columns] = values[name][mine]
        names = tuple(tasks[task] for task in used_tasks)
        matrices[probe] = SampleMatrix(
            probe,
            names,
            scores,
            rows={name: row for row, name in enumerate(names)},
            samples=tuple(samples[sample] for sample in used_samples),
        )
    return matrices


def _codes(column: pa.ChunkedArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Return the column's distinct values in sorted order, and each row's index among them."""
    encoded = column.cast(pa.string()).combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    order = sorted(range(len(names)), key=names.__getitem__)
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return [names[index] for index in order], rank[encoded.indices.to_numpy()]
