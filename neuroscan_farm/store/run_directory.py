"""A run's directory, on a disk or in an object store.

Workers add parts and attempts; only the coordinator writes the manifest and the plan.

request.yaml      as submitted, with every default written out
manifest.json     versions, model fingerprint, probe digests, engine and scoring versions
probes/           the probes as they were when the run was made: a worker needs no other file
plan.parquet      one row for each task
parts/            rows of finished tasks: a Parquet file for each shard, or for many that were joined
attempts/         what was tried and failed
farm.json         which farm cares for the run, if one does
control.json      what the user wants of the run now, and who is to carry it out
serve.json        its place in the queue of a server without a farm (`serve/waiting.py`)
similarity.json   how alike layers are, where a further stage asks for it
report/           what the report step made of the parts
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from neuroscan_farm.analyses import get_analysis, read_request
from neuroscan_farm.domain.identity import content_digest
from neuroscan_farm.domain.measurements import ENGINE_VERSION, SCORING_VERSION
from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.domain.requests import AnalysisRequest
from neuroscan_farm.domain.tasks import Shard
from neuroscan_farm.errors import ProbeError, RunError
from neuroscan_farm.probes.loader import read_probe
from neuroscan_farm.store.attempts import Attempts
from neuroscan_farm.store.control import Control, read_control, write_control
from neuroscan_farm.store.parts import Parts
from neuroscan_farm.store.places import Place, open_place
from neuroscan_farm.store.plan_file import PlanFile, Planned
from neuroscan_farm.store.similarity_file import SimilarityFile
from neuroscan_farm.yaml_text import NotYaml, read_yaml

MANIFEST_VERSION = 1
# Where libyaml is there: the same language, many times faster. A request may name a hundred thousand configurations.
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_YAML_OUT = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


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
    layer_parameters: tuple[int, ...] | None = None  # of each layer; None where the weight files do not tell
    # bytes of a token in the key-value cache of each layer; None as above
    layer_kv_bytes: tuple[int, ...] | None = None


class RunDirectory:
    """One run on a disk or in an object store: its request, manifest, plan, parts and attempts."""

    def __init__(self, place: Place, manifest: Manifest) -> None:
        self.place = place
        self.manifest = manifest
        self.parts = Parts(
            place.below("parts"), run_id=manifest.run_id, rows_per_task=sum(manifest.n_samples.values())
        )
        self.attempts = Attempts(place.below("attempts"))
        self.similarity = SimilarityFile(place, depth=manifest.depth)
        self._plan = PlanFile(place)

    @classmethod
    def create(
        cls,
        location: str | Path,
        *,
        manifest: Manifest,
        request: AnalysisRequest,
        probes: Sequence[Probe],
        shards: Sequence[Shard],
        plan_complete: bool,
        executor: str,
        priority: int | None = None,
    ) -> RunDirectory:
        """Make the directory of a new run. The manifest comes last: with it, the run exists.

        Raises:
            RunError: the location holds something that is not a run.
            StorageError: the disk or the store refused.
        """
        place = open_place(location)
        if place.entry("request.yaml") is None and _holds_something(place):
            raise RunError(
                f"{place.location}: the directory is not empty and holds no run; choose a new one with --output"
            )
        place.write("request.yaml", request_yaml(request).encode())
        for probe in probes:
            text = json.dumps(probe.to_json_dict(), ensure_ascii=False, indent=1)
            place.below("probes").write(f"{probe.name}.json", text.encode())
        run = cls(place, manifest)
        run.write_plan(shards, complete=plan_complete)
        run.set_wanted("running", executor=executor, priority=priority)
        place.write("manifest.json", json.dumps(asdict(manifest), indent=2).encode())
        return run

    @classmethod
    def open(cls, location: str | Path) -> RunDirectory:
        """Open a run that exists.

        Raises:
            RunError: there is no run at `location`, or its manifest is damaged or of another version.
            StorageError: the disk or the store failed.
        """
        place = open_place(location)
        where = place.where("manifest.json")
        try:
            content = place.read("manifest.json")
        except FileNotFoundError:
            raise RunError(
                f"{place.location}: no run here (manifest.json is missing); `neuroscan-farm ls` lists the runs"
            ) from None
        try:
            data = json.loads(content)
            if data.get("schema_version") != MANIFEST_VERSION:
                raise RunError(
                    f"{where}: version {str(data.get('schema_version'))[:40]}, this program reads {MANIFEST_VERSION}; "
                    "use the program version that made the run"
                )
            manifest = _manifest(data)
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise RunError(
                f"{where}: damaged ({error}); restore it from a copy or start the run anew"
            ) from error
        return cls(place, manifest)

    @staticmethod
    def exists(location: str | Path) -> bool:
        """Whether a run is at `location`.

        Raises:
            StorageError: the disk or the store failed.
        """
        return open_place(location).entry("manifest.json") is not None

    @property
    def location(self) -> str:
        """Where the run is: an absolute path, or a URL."""
        return self.place.location

    @property
    def root(self) -> Path:
        """The folder of a run on a disk.

        Raises:
            RunError: the run is in an object store.
        """
        if self.place.root is None:
            raise RunError(f"{self.location}: this run is in an object store, and has no folder on a disk")
        return self.place.root

    def check_versions(self) -> None:
        """Refuse to mix rows of two engine or scoring versions in one run.

        Raises:
            RunError: the run was made by a version whose numbers may differ.
        """
        made = (self.manifest.engine_version, self.manifest.scoring_version)
        if made != (ENGINE_VERSION, SCORING_VERSION):
            raise RunError(
                f"{self.location}: made with engine {made[0]} and scoring {made[1]}, this program has "
                f"{ENGINE_VERSION} and {SCORING_VERSION}; finish it with the version that made it, or start a new run "
                "with another --output"
            )

    def request(self) -> AnalysisRequest:
        """The request as it was submitted.

        Raises:
            RunError: the file is damaged.
            RequestError: the file was edited into something invalid.
        """
        where = self.place.where("request.yaml")
        try:
            data = read_yaml(self.place.read("request.yaml").decode(), loader=_YAML)
        except (FileNotFoundError, NotYaml, UnicodeDecodeError) as error:
            raise RunError(f"{where}: cannot be read ({error})") from error
        return read_request(data, where=where)

    def probes(self) -> tuple[Probe, ...]:
        """The probes as they were when the run was made.

        Raises:
            ProbeError: a probe is missing or damaged.
            RunError: a probe was changed since, so rows would no longer belong together.
        """
        place = self.place.below("probes")
        probes = []
        for name, digest in self.manifest.probes.items():
            where = place.where(f"{name}.json")
            try:
                probe = read_probe(place.read(f"{name}.json"), where=where)
            except FileNotFoundError:
                raise ProbeError(f"{where}: no such file; restore it from a copy of the run") from None
            if probe.digest != digest:
                raise RunError(f"{where} was changed after the run was made; restore it")
            probes.append(probe)
        return tuple(probes)

    def needs_similarity(self) -> bool:
        """Whether the worker that measures the baseline writes `similarity` too: a further stage will look at it."""
        request = self.request()
        asked = get_analysis(request.analysis).needs_similarity(request.parameters)
        return asked and not self.plan_complete()

    def shards(self) -> list[Shard]:
        """The plan's shards, in the order in which they are sent.

        Raises:
            RunError: the plan is missing or damaged.
        """
        return self._plan.shards()

    def shard(self, shard_id: str) -> Shard | None:
        """One of the plan's shards; None where the plan has it no more. Reads little of a large plan.

        Raises:
            RunError: the plan is missing or damaged.
        """
        return self._plan.shard(shard_id)

    def planned(self) -> Planned:
        """The plan's tasks as columns: enough to count, and read in a fraction of the time of `shards`.

        Raises:
            RunError: the plan is missing or damaged.
        """
        return self._plan.planned()

    def plan_stamp(self) -> str:
        """Return something that changes whenever the plan is replaced.

        Raises:
            RunError: the plan is missing.
        """
        return self._plan.stamp()

    def plan_complete(self) -> bool:
        """Whether the plan holds its last stage; False while a further one may follow.

        Raises:
            RunError: the plan is missing or damaged.
        """
        return self._plan.complete()

    def write_plan(self, shards: Sequence[Shard], *, complete: bool) -> None:
        """Replace the plan; a later stage appends to the one before, and other shards may hold the same tasks.

        Raises:
            StorageError: the disk or the store refused.
        """
        self._plan.write(shards, complete=complete)

    def control(self) -> Control:
        """What the user wants of the run now; what is missing or damaged in its file is the default.

        Raises:
            StorageError: the disk or the store failed.
        """
        return read_control(self.place)

    def wanted(self) -> str:
        """See `Control`."""
        return self.control().wanted

    def executor(self) -> str:
        """See `Control`."""
        return self.control().executor

    def priority(self) -> int:
        """See `Control`."""
        return self.control().priority

    def set_wanted(
        self, wanted: str | None = None, *, executor: str | None = None, priority: int | None = None
    ) -> None:
        """Say what is wanted of the run, of whom, and how soon; what is left out stays. Workers look between tasks.

        Raises:
            StorageError: the disk or the store refused.
        """
        said: dict[str, Any] = {"wanted": wanted, "executor": executor, "priority": priority}
        control = self.control()._replace(
            **{name: value for name, value in said.items() if value is not None}
        )
        write_control(self.place, control)

    def farm(self) -> tuple[str, str] | None:
        """The farm that the run was given to, by its queue's name, and the location that it is called by there."""
        try:
            written = json.loads(self.place.read("farm.json"))
            return str(written["queue"]), str(written["location"])
        except (FileNotFoundError, ValueError, RecursionError, KeyError, TypeError):
            return None

    def give_to_farm(self, queue: str, location: str) -> None:
        """Write down which farm cares for the run, for coordinators whose broker has forgotten it.

        Raises:
            StorageError: the disk or the store refused.
        """
        if self.farm() != (queue, location):
            self.place.write("farm.json", json.dumps({"queue": queue, "location": location}).encode())


_MANIFEST = TypeAdapter(Manifest)


def _manifest(data: Mapping[str, Any]) -> Manifest:
    unknown = set(data) - {field.name for field in fields(Manifest)}
    if unknown:
        raise ValueError(f"{min(unknown)[:40]} is not known")
    try:
        manifest = _MANIFEST.validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))[:80]}: {first['msg']}") from None
    if any("/" in name or name.startswith(".") for name in manifest.probes):
        raise ValueError("a probe's name leads out of the run")
    if manifest.depth < 1 or min(manifest.n_samples.values(), default=0) < 1:
        raise ValueError("it counts no layers, or no samples")
    return manifest


def _holds_something(place: Place) -> bool:
    """Whether a place holds anything but what an interrupted write left aside."""
    return bool(place.folders()) or any(not entry.name.startswith(".tmp-") for entry in place.entries())


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
    return str(yaml.dump(content, Dumper=_YAML_OUT, sort_keys=False, allow_unicode=readable))


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
