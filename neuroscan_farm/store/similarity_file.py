"""How alike layers are on a run's baseline: `similarity.json`, written by the worker that measures the baseline.

It is written before the baseline's rows are committed. So where these are there, it is there too; written twice, it
says the same.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from neuroscan_farm.errors import RunError
from neuroscan_farm.store.places import Place

_NAME = "similarity.json"
_VERSION = 1
_MEANING = (
    "similarity[a][b]: cosine of the last token's residual streams after layer a and after layer b of the untouched "
    "model, mean over all samples"
)


class SimilarityFile:
    """The similarity of a run's layers."""

    def __init__(self, place: Place, *, depth: int) -> None:
        self._place = place
        self._depth = depth

    def is_there(self) -> bool:
        """Whether the file was written.

        Raises:
            StorageError: the disk or the store failed.
        """
        return self._place.entry(_NAME) is not None

    def write(self, matrix: Sequence[Sequence[float]], *, samples: int) -> None:
        """Keep [depth][depth] cosines, and of how many samples they are the mean.

        Raises:
            StorageError: the disk or the store refused.
        """
        content = {
            "schema_version": _VERSION,
            "meaning": _MEANING,
            "samples": samples,
            "similarity": [[round(cosine, 9) for cosine in row] for row in matrix],
        }
        self._place.write(_NAME, json.dumps(content).encode())

    def read(self) -> list[list[float]]:
        """Return [depth][depth] cosines.

        Raises:
            RunError: the file is missing, damaged, or of another version.
            StorageError: the disk or the store failed.
        """
        where = self._place.where(_NAME)
        mend = "restore it from a copy of the run, or start the run anew with another --output"
        try:
            said = json.loads(self._place.read(_NAME))
        except FileNotFoundError:
            raise RunError(
                f"{where}: no such file, and the next stage's pairs are chosen by it; {mend}"
            ) from None
        except (ValueError, RecursionError) as error:
            raise RunError(f"{where}: damaged ({error}); {mend}") from error
        if not isinstance(said, dict) or said.get("schema_version") != _VERSION:
            version = said.get("schema_version") if isinstance(said, dict) else None
            raise RunError(f"{where}: version {str(version)[:40]}, this program reads {_VERSION}; {mend}")
        matrix = said.get("similarity")
        if not self._is_whole(matrix):
            raise RunError(f"{where}: damaged (not {self._depth} rows of {self._depth} cosines); {mend}")
        assert isinstance(matrix, list)
        return matrix

    def _is_whole(self, matrix: object) -> bool:
        return (
            isinstance(matrix, list)
            and len(matrix) == self._depth
            and all(isinstance(row, list) and len(row) == self._depth for row in matrix)
            and all(
                isinstance(cosine, int | float) and not isinstance(cosine, bool) and math.isfinite(cosine)
                for row in matrix
                for cosine in row
            )
        )
