"""A run's directory. Workers add parts and attempts; only the coordinator writes the manifest and the plan.

request.yaml      as submitted, with every default written out
manifest.json     versions, model fingerprint, probe digests, engine and scoring versions
probes/           the probes as they were when the run was made: a worker needs no other file
plan.parquet      one row for each task
parts/            rows of finished shards, one Parquet file each
attempts/         what was tried and failed
control.json      what the user wants of the run now, and who is to carry it out
report/           what the report step made of the parts
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from neuroscan_farm.analyses import read_request
from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.domain.requests import AnalysisRequest
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import RunError
from neuroscan_farm.probes.loader import load_probe_file
from neuroscan_farm.store.atomic import write_text, written_aside
from neuroscan_farm.store.attempts import Attempts
from neuroscan_farm.store.parts import Parts
from neuroscan_farm.store.schema import PLAN, PLAN_VERSION, plan_table, shards_of

MANIFEST_VERSION = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a run rests on. Two manifests that differ in `content` are two different runs."""

    run_id: str
    analysis: str
    model: str  # as the request names it
    model_name: str  # short, for titles
    model_folder: str  # where the coordinator found it
    model_fingerprint: str
    model_type: str
    depth: int
    hidden_size: int
    probes: Mapping[str, str]  # name -> digest
    n_samples: Mapping[str, int]
    engine_version: str
    scoring_version: str
    created: str  # ISO 8601, UTC
    versions: Mapping[str, str]  # of this program and the libraries that matter, on the coordinator
    schema_version: int = MANIFEST_VERSION


class RunDirectory:
    """One run on disk: its request, manifest, plan, parts and attempts."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest
        self.parts = Parts(root / "parts", run_id=manifest.run_id)
        self.attempts = Attempts(root / "attempts")

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        manifest: Manifest,
        request: AnalysisRequest,
        probes: Sequence[Probe],
        shards: Sequence[Shard],
        plan_complete: bool,
        executor: str,
    ) -> RunDirectory:
        """Make the directory of a new run. The manifest comes last: with it, the run exists.

        Raises:
            RunError: `root` holds something that is not a run.
            StorageError: the disk refused.
        """
        if not (root / "request.yaml").exists() and _holds_something(root):
            raise RunError(
                f"{root}: the directory is not empty and holds no run; choose a new one with --output"
            )
        write_text(root / "request.yaml", request_yaml(request))
        for probe in probes:
            text = json.dumps(probe.to_json_dict(), ensure_ascii=False, indent=1)
            write_text(root / "probes" / f"{probe.name}.json", text)
        run = cls(root, manifest)
        run.write_plan(shards, complete=plan_complete)
        run.set_wanted("running", executor=executor)
        write_text(root / "manifest.json", json.dumps(asdict(manifest), indent=2))
        return run

    @classmethod
    def open(cls, root: Path) -> RunDirectory:
        """Open a run that exists.

        Raises:
            RunError: there is no run at `root`, or its manifest is damaged or of another version.
        """
        path = root / "manifest.json"
        if not path.is_file():
            raise RunError(
                f"{root}: no run here (manifest.json is missing); `neuroscan-farm ls` lists the runs"
            )
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.get("schema_version") != MANIFEST_VERSION:
                raise RunError(
                    f"{path}: version {data.get('schema_version')}, this program reads {MANIFEST_VERSION}; "
                    "use the program version that made the run"
                )
            manifest = Manifest(**data)
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise RunError(
                f"{path}: damaged ({error}); restore it from a copy or start the run anew"
            ) from error
        return cls(root, manifest)

    @staticmethod
    def exists(root: Path) -> bool:
        """Whether a run is at `root`."""
        return (root / "manifest.json").is_file()

    def request(self) -> AnalysisRequest:
        """The request as it was submitted.

        Raises:
            RunError: the file is damaged.
            RequestError: the file was edited into something invalid.
        """
        path = self.root / "request.yaml"
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise RunError(f"{path}: cannot be read ({error})") from error
        return read_request(data, where=str(path))

    def probes(self) -> tuple[Probe, ...]:
        """The probes as they were when the run was made.

        Raises:
            RunError: a probe was changed since, so rows would no longer belong together.
        """
        probes = []
        for name, digest in self.manifest.probes.items():
            probe = load_probe_file(self.root / "probes" / f"{name}.json")
            if probe.digest != digest:
                raise RunError(
                    f"{self.root}/probes/{name}.json was changed after the run was made; restore it"
                )
            probes.append(probe)
        return tuple(probes)

    def shards(self) -> list[Shard]:
        """The plan's shards, in the order in which they are sent.

        Raises:
            RunError: the plan is missing or damaged.
        """
        path = self.root / "plan.parquet"
        try:
            table = pq.read_table(path, partitioning=None)
        except (OSError, pa.ArrowException) as error:
            raise RunError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from error
        version = (table.schema.metadata or {}).get(b"neuroscan.schema_version", b"none").decode()
        if version != PLAN_VERSION or not table.schema.equals(PLAN, check_metadata=False):
            raise RunError(f"{path}: schema version {version}, this program reads {PLAN_VERSION}")
        return shards_of(table)

    def plan_stamp(self) -> tuple[int, int]:
        """Return something that changes whenever the plan is replaced."""
        stat = (self.root / "plan.parquet").stat()
        return stat.st_ino, stat.st_mtime_ns

    def plan_complete(self) -> bool:
        """Whether the plan holds its last stage; False while a further one may follow."""
        metadata = pq.read_schema(self.root / "plan.parquet").metadata or {}
        return bool(metadata.get(b"neuroscan.complete") == b"yes")

    def write_plan(self, shards: Sequence[Shard], *, complete: bool) -> None:
        """Replace the plan; a later stage appends to the one before.

        Raises:
            StorageError: the disk refused.
        """
        with written_aside(self.root / "plan.parquet") as aside:
            pq.write_table(plan_table(shards, complete=complete), aside)

    def rows_expected(self, shards: Sequence[Shard]) -> dict[str, int]:
        """How many rows the part of each shard must have."""
        samples = sum(self.manifest.n_samples.values())
        return {shard.shard_id: len(shard.tasks) * samples for shard in shards}

    def wanted(self) -> str:
        """What the user wants of the run now: "running" or "cancelled"."""
        return self._control()["wanted"]

    def executor(self) -> str:
        """Who is to carry the run out: "local", a process of this machine, or "celery", the farm."""
        return self._control()["executor"]

    def set_wanted(self, wanted: str, *, executor: str | None = None) -> None:
        """Say what is wanted of the run, and of whom; workers look at it between tasks.

        Raises:
            StorageError: the disk refused.
        """
        control = {"wanted": wanted, "executor": executor or self.executor()}
        write_text(self.root / "control.json", json.dumps(control))

    def _control(self) -> dict[str, str]:
        control = {"wanted": "running", "executor": "local"}
        try:
            written = json.loads((self.root / "control.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return control
        if isinstance(written, dict):
            control |= {name: str(written[name]) for name in control if name in written}
        return control


def _holds_something(root: Path) -> bool:
    """Whether a directory holds anything but what an interrupted write left aside."""
    return root.is_dir() and any(not path.name.startswith(".tmp-") for path in root.iterdir())


def request_content(request: AnalysisRequest) -> dict[str, Any]:
    """The request as plain data, with every default written out."""
    content: dict[str, Any] = request.model_dump(mode="json")
    return content


def request_yaml(request: AnalysisRequest) -> str:
    """The request as YAML, with every default written out; `read_request` reads it back."""
    content = request_content(request)
    readable = "\x85" not in json.dumps(
        content, ensure_ascii=False
    )  # PyYAML would read a NEL back as a space
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=readable)


def make_run_id(
    request: AnalysisRequest, *, model_name: str, model_fingerprint: str, probes: Sequence[Probe]
) -> str:
    """Return the id made of what the run measures: its request, its model's content, its probes' content."""
    content = request_content(
        request
    )  # where the model and the probes were found does not matter, what they are does
    content |= {"model": model_fingerprint, "revision": None}
    content["probes"] = {probe.name: probe.digest for probe in probes}
    digest = content_digest(content, length=10)
    short = re.sub(r"[^A-Za-z0-9._-]", "-", model_name)[
        :40
    ]  # the id names a directory, and goes over the wire
    return f"{request.analysis}-{short}-{digest}"
