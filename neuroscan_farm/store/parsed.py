"""Making something of a file, piece by piece: what makes no sense is told from a store that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pyarrow as pa

from neuroscan_farm.store.places import Place

# What pyarrow raises of bytes that are no Parquet file: names that are no UTF-8 are a ValueError.
MAKES_NO_SENSE = (pa.ArrowException, OSError, ValueError, TypeError, LookupError)
T = TypeVar("T")


class NoSense(Exception):
    """This file is not what it should be; the message says why."""


def parsed(place: Place, name: str, parse: Callable[[pa.NativeFile], T]) -> T:
    """Return what `parse` makes of a file.

    pyarrow says `OSError` of a file that makes no sense and of a store that fails. So what failed is read once more, as
    bytes: where that fails it is the store.

    Raises:
        FileNotFoundError: there is no such file.
        NoSense: `parse` can make nothing of it.
        StorageError: the store failed.
    """
    try:
        with place.open_file(name) as file:
            return parse(file)
    except FileNotFoundError:
        raise
    except MAKES_NO_SENSE:
        pass
    data = place.read(name)
    try:
        return parse(pa.BufferReader(data))
    except MAKES_NO_SENSE as error:
        raise NoSense((str(error).splitlines() or [type(error).__name__])[0]) from None
