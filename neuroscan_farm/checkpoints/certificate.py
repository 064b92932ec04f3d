"""The certificate: what was compared between a checkpoint and the run that it stands for, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

CERTIFICATE_FILE = "verification.json"
CERTIFICATE_VERSION = 1
EQUAL, DIFFERENT = "equal", "different"


@dataclass(frozen=True, slots=True)
class LogitsCompared:
    """The checkpoint's own forward against the executor on the source along the path: the last token's logits."""

    samples: int
    largest_absolute: float | None  # None where one side is not finite and the other is
    largest_relative: float | None  # of the largest logit of the same batch
    allowed_relative: float
    largest_logit: float
    probe: str | None  # of the sample with the largest absolute difference
    sample_id: str | None


@dataclass(frozen=True, slots=True)
class RowsCompared:
    """The checkpoint's scores against the rows that the run measured."""

    compared: int  # rows of the run with the same probe and sample
    note: str  # what was compared, or why nothing was
    largest_difference: float | None = None  # over log_odds, log_p_correct and expected_score
    allowed: float | None = None  # for that score
    score: str | None = None  # the column with the largest difference as a share of what is allowed
    probe: str | None = None
    sample_id: str | None = None


@dataclass(frozen=True, slots=True)
class Certificate:
    """The verdict, and all that it rests on."""

    verdict: str  # `EQUAL` or `DIFFERENT`
    reasons: tuple[str, ...]  # why it is different; empty where it is equal
    checkpoint: str  # the folder's name
    made_by: str | None  # neuroscan-farm with its version, mergekit, or None where the folder does not say
    run_id: str
    model: str  # the source, as the run names it
    path: str
    layers_expected: int
    layers_found: int
    source_fingerprint: str
    checkpoint_fingerprint: str
    # of the files that `materialize` wrote; None for a checkpoint of somebody else
    checkpoint_digest: str | None
    logits: LogitsCompared | None
    rows: RowsCompared
    dtype: str
    device: str
    attention: str
    relative_latency: float | None  # forward pass of the checkpoint / of the source, measured
    relative_latency_note: str
    relative_layers: float  # layers of the path / of the source: the same as layer evaluations
    versions: dict[str, str]
    created: str  # ISO 8601, UTC
    schema_version: int = CERTIFICATE_VERSION

    @property
    def is_equal(self) -> bool:
        """Whether the checkpoint is what the run measured, up to rounding."""
        return self.verdict == EQUAL

    def to_json(self) -> str:
        """Return the certificate as the JSON of its file."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    def text(self) -> str:
        """Return the certificate for people."""
        head = "is the model along the path" if self.is_equal else "is NOT the model along the path"
        lines = [f"{self.checkpoint} {head} {self.path} (run {self.run_id})"]
        lines += [f"  wrong      {reason}" for reason in self.reasons]
        lines.append(f"  layers     {self.layers_found} of {self.layers_expected} expected")
        if self.logits is None:
            lines.append("  logits     not compared")
        elif self.logits.largest_relative is None:
            lines.append("  logits     not comparable: not finite on one side alone")
        else:
            lines.append(
                f"  logits     {self.logits.samples} samples, largest difference {self.logits.largest_absolute:.2e}, "
                f"{self.logits.largest_relative:.1e} of the largest logit (allowed {self.logits.allowed_relative:.0e})"
            )
        rows = self.rows.note
        if self.rows.largest_difference is not None:
            rows += (
                f"; largest difference {self.rows.largest_difference:.2e} in {self.rows.score} of {self.rows.sample_id} "
                f"(allowed {self.rows.allowed:.0e})"
            )
        lines.append(f"  rows       {rows}")
        latency = "–" if self.relative_latency is None else f"{self.relative_latency:.2f} of the source"
        lines.append(
            f"  latency    {latency}; by layers {self.relative_layers:.2f} ({self.relative_latency_note})"
        )
        lines.append(f"  source     {self.source_fingerprint}")
        lines.append(f"  checkpoint {self.checkpoint_fingerprint}")
        return "\n".join(lines)
