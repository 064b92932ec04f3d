"""Which field of a submission an error is about, as far as its message tells."""

from __future__ import annotations

import re

from neuroscan_farm.errors import NeuroscanError, ProbeError, RequestError
from neuroscan_farm.serve.security import Refused

WHERE = "request"  # what a submission is called in messages
_FIELD = re.compile(rf"{WHERE}: ([A-Za-z_][\w.]*) (is .*)", re.DOTALL)


def fields_of(error: NeuroscanError) -> dict[str, str] | None:
    """What is wrong with a request, by field; None where the message does not tell."""
    if not isinstance(error, RequestError | ProbeError):
        return None
    found: dict[str, str] = {}
    for line in str(error).split(f"\n{WHERE}: "):
        said = _FIELD.fullmatch(line if line.startswith(f"{WHERE}: ") else f"{WHERE}: {line}")
        if said is not None:
            found.setdefault(said[1], said[2])
    return found or None


def refused_field(name: str, what: str, *, mend: str | None = None) -> Refused:
    """The refusal of one field of a submission."""
    return Refused(422, f"{WHERE}: {name} {what}", mend, {name: what})
