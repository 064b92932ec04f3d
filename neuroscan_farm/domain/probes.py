"""What is asked of a model: probes and their samples. Read by `probes/loader.py`, never changed after."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.errors import ProbeError

Scoring: TypeAlias = Literal["digits", "choices"]

DIGITS: tuple[str, ...] = tuple("0123456789")

# ASCII only: "٣", "1_0", "nan" and "inf" are text to us, though float() takes them.
_NUMERAL = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


def content_sample_id(prompt: str, answer: str | None) -> str:
    """Return the id of a sample that has none of its own: 12 hex digits made of its prompt and answer."""
    return content_digest([prompt, answer])


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its right answer."""

    sample_id: str  # unique in its probe
    prompt: str
    answer: str | None = None  # one of the probe's choices; None where nobody has said what is right
    category: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict, hash=False)  # JSON's own types

    def to_json_dict(self) -> dict[str, object]:
        """Return the sample as `probes/loader.py` reads it."""
        answer = {} if self.answer is None else {"answer": self.answer}
        return {
            "id": self.sample_id,
            "prompt": self.prompt,
            **answer,
            "category": self.category,
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True, slots=True)
class Probe:
    """A named set of questions, and the answers among which a model chooses.

    Raises:
        ProbeError: there are no samples, two share an id, an answer is not among the choices, or the choices
            are fewer than two or repeated. The loader finds the same and more, and says where.
    """

    name: str
    samples: tuple[Sample, ...]
    description: str = ""
    scoring: Scoring = "digits"
    choices: tuple[str, ...] = DIGITS  # in the order of every vector of answer probabilities
    scoring_suffix: str = ""  # appended to each prompt; the next token is the answer

    def __post_init__(self) -> None:
        if not self.samples:
            raise ProbeError(f"probe {self.name}: no samples; give at least one")
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):
            raise ProbeError(
                f"probe {self.name}: choices are {self.choices}; give two or more different ones"
            )
        if self.scoring == "digits" and self.choices != DIGITS:
            raise ProbeError(
                f'probe {self.name}: scoring "digits" has the choices 0 to 9; use scoring "choices"'
            )
        sample_id, uses = Counter(sample.sample_id for sample in self.samples).most_common(1)[0]
        if uses > 1:
            raise ProbeError(
                f"probe {self.name}: {uses} samples have the id {sample_id!r}; give each its own"
            )
        for number, sample in enumerate(self.samples, start=1):
            if sample.answer is not None and sample.answer not in self.choices:
                raise ProbeError(
                    f"probe {self.name}, sample {number}: answer is {sample.answer!r}; "
                    f"accepted: one of {', '.join(self.choices)}"
                )

    @property
    def values(self) -> tuple[float, ...] | None:
        """The number that each choice names, or None where one of them names none."""
        if not all(_NUMERAL.fullmatch(choice) for choice in self.choices):
            return None
        values = tuple(float(choice) for choice in self.choices)
        return values if all(math.isfinite(value) for value in values) else None

    @property
    def digest(self) -> str:
        """16 hex digits made of all that affects a measurement; the name and the description do not."""
        return content_digest(
            {
                "choices": self.choices,
                "scoring_suffix": self.scoring_suffix,
                "samples": [[sample.sample_id, sample.prompt, sample.answer] for sample in self.samples],
            },
            length=16,
        )

    @property
    def is_labelled(self) -> bool:
        """Whether every sample has its right answer, as ranking by correctness needs."""
        return not self.unlabelled()

    def unlabelled(self) -> tuple[Sample, ...]:
        """Return the samples without a right answer."""
        return tuple(sample for sample in self.samples if sample.answer is None)

    def text_of(self, sample: Sample) -> str:
        """Return what the model reads for `sample`; its next token is the answer."""
        return sample.prompt + self.scoring_suffix

    def categories(self) -> tuple[str, ...]:
        """Return the samples' categories, each once, in order of appearance."""
        return tuple(dict.fromkeys(sample.category for sample in self.samples if sample.category))

    def to_json_dict(self) -> dict[str, object]:
        """Return the probe in the form that `parse_probe` reads back as an equal probe."""
        choices = {} if self.scoring == "digits" else {"choices": list(self.choices)}
        return {
            "name": self.name,
            "description": self.description,
            "scoring": self.scoring,
            **choices,
            "scoring_suffix": self.scoring_suffix,
            "samples": [sample.to_json_dict() for sample in self.samples],
        }
