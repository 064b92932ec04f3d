"""The executor: every path the same bits in any company, nothing computed twice, and no failure wider than its path."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from neuroscan_farm.domain.measurements import Measurement, Outcome
from neuroscan_farm.domain.paths import Block, LayerPath
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.domain.tasks import Task
from neuroscan_farm.engine.anatomy import find_anatomy
from neuroscan_farm.engine.boundaries import BoundaryCache
from neuroscan_farm.engine.executor import Executor
from neuroscan_farm.engine.lanes.fused import fused_lane
from neuroscan_farm.engine.lanes.general import GeneralLane
from neuroscan_farm.engine.lanes.lane import Inputs, Lane
from neuroscan_farm.engine.loading import LoadedModel, load
from neuroscan_farm.engine.prompts import Batch, make_batches
from neuroscan_farm.engine.sweep import Wave, same_bits
from neuroscan_farm.planning.trie import PathTrie
from neuroscan_farm.probes.loader import load_probe_file
from tests.tiny_models import make_tiny

DEPTH = 6
GRID = [LayerPath.identity(DEPTH)] + [
    LayerPath.duplicating([Block(i, j)], DEPTH) for i in range(DEPTH) for j in range(i + 1, DEPTH + 1)
]
PAIRS = [
    LayerPath(tuple(k for k in range(DEPTH) if k not in (a, b)))
    for a in range(DEPTH)
    for b in range(a, DEPTH)
]
ODD = [LayerPath.parse(text) for text in ("0..5,0..5", "5,4,3,2,1,0", "0..2,2,2,1..5", "3", "0..3", "0..4,4")]
EVERYTHING = [*GRID, *PAIRS, *ODD]

OUT_OF_MEMORY = torch.OutOfMemoryError("made up: no memory left")


class Watched:
    """A lane that counts its calls, and fails where a test says so."""

    def __init__(
        self, lane: Lane, fail: Callable[[int, torch.Tensor], Exception | None] | None = None
    ) -> None:
        self._lane = lane
        self._fail = fail or (lambda k, stack: None)
        self.name = lane.name
        self.units: Counter[str] = Counter()  # by what was asked for
        self.sizes: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lane, name)

    def run(self, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, *only: Any) -> torch.Tensor:
        return self._watch("run", inputs, k, stack, copies, *only)

    def run_last(self, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, *only: Any) -> torch.Tensor:
        return self._watch("run_last", inputs, k, stack, copies, *only)

    def _watch(
        self, name: str, inputs: Inputs, k: int, stack: torch.Tensor, copies: int, *only: Any
    ) -> torch.Tensor:
        if (error := self._fail(k, stack)) is not None:
            raise error
        self.units[name] += copies
        self.sizes.add(copies)
        result: torch.Tensor = getattr(self._lane, name)(inputs, k, stack, copies, *only)
        return result


@pytest.fixture
def loaded(tiny_llama: Path) -> LoadedModel:
    return load(tiny_llama, EngineOptions())


def batches_of(loaded: LoadedModel, probe_file: Path, batch_size: int = 16) -> list[Batch]:
    probe = load_probe_file(probe_file)
    return make_batches(
        loaded.tokenizer, [probe], prompt_format="raw", batch_size=batch_size, max_tokens=None
    )


def lane_of(loaded: LoadedModel, name: str) -> Lane:
    anatomy = find_anatomy(loaded.model, torch.tensor([[0, 1, 2, 3]]), depth=DEPTH)
    if name == "general":
        return GeneralLane(anatomy)
    lane = fused_lane(anatomy).lane
    assert lane is not None
    return lane


def executor_of(loaded: LoadedModel, folder: Path, lane: Any = None, tokens: int = 64) -> Executor:
    """Return an executor whose calibration says `tokens`."""
    anatomy = find_anatomy(loaded.model, torch.tensor([[0, 1, 2, 3]]), depth=DEPTH)
    executor = Executor(
        loaded,
        anatomy,
        fingerprint="test",
        cache=BoundaryCache(folder / "cache", most_bytes=10**9),
        lane=lane,
    )
    executor._calibration.shrink(tokens)
    return executor


def tasks_of(paths: list[LayerPath]) -> list[Task]:
    return [Task.of(path, probe_digests=["d"]) for path in dict.fromkeys(paths)]


def scores(measurements: Any) -> dict[tuple[str, str], Any]:
    return {(m.task_id, m.sample_id): (m.outcome, m.detail, m.score) for m in measurements}


@pytest.mark.parametrize("lane", ["general", "fused"])
def test_a_row_has_the_same_bits_alone_in_any_company_and_in_micro_batches_of_any_size(
    lane: str, loaded: LoadedModel, probe_file: Path, tmp_path: Path
) -> None:
    batches = batches_of(loaded, probe_file)
    tasks = tasks_of(EVERYTHING)
    alone: dict[tuple[str, str], Any] = {}
    executor = executor_of(loaded, tmp_path, lane_of(loaded, lane), tokens=1)
    for task in tasks:
        alone |= scores(executor.measure([task], batches))
    for tokens in (1, 64, 300, 10_000):
        watched = Watched(lane_of(loaded, lane))
        executor = executor_of(loaded, tmp_path, watched, tokens=tokens)
        assert scores(executor.measure(tasks, batches)) == alone
        assert max(watched.sizes) >= (8 if tokens == 10_000 else 1)
        for part in (tasks[::2], tasks[1::3]):
            found = scores(executor.measure(part, batches))
            assert found == {key: alone[key] for key in found}
    assert scores(executor.measure(tasks, batches, apart=True)) == alone


def test_what_paths_share_is_computed_once(loaded: LoadedModel, probe_file: Path, tmp_path: Path) -> None:
    (batch, *_) = batches_of(loaded, probe_file)
    executor_of(loaded, tmp_path).logits(PAIRS, batch.token_ids)  # fills the cache of boundaries
    watched = Watched(GeneralLane(executor_of(loaded, tmp_path).anatomy))
    executor = executor_of(loaded, tmp_path, watched, tokens=1)
    executor.logits(PAIRS, batch.token_ids)
    trie = PathTrie.of(PAIRS)
    assert watched.units["run"] == sum(bool(children) for children in trie.children)
    assert watched.units["run_last"] == sum(end is not None for end in trie.ends.values())
    assert len(trie.nodes) < 0.7 * sum(path.evaluations() for path in PAIRS)


def test_a_path_that_fails_takes_those_with_it_that_run_through_it_and_no_others(
    loaded: LoadedModel, probe_file: Path, tmp_path: Path
) -> None:
    batches = batches_of(loaded, probe_file)
    tasks = tasks_of(EVERYTHING)
    sound = scores(executor_of(loaded, tmp_path, tokens=500).measure(tasks, batches))
    poisoned = LayerPath.parse("0..1,3..5")  # without layer 2; pairs (2, b) branch off it
    executor = executor_of(loaded, tmp_path)
    boundary = {
        batch.token_ids.shape: executor._baseline.boundaries([executor.lane.inputs(batch.token_ids)])[0][2]
        for batch in batches
    }

    def fail(k: int, stack: torch.Tensor) -> Exception | None:
        units = [unit for unit in boundary.values() if unit.shape[1:] == stack.shape[1:]]
        hit = k == 3 and any(same_bits(part, unit) for unit in units for part in stack.split(len(unit)))
        return ValueError("made up") if hit else None

    executor = executor_of(loaded, tmp_path, Watched(GeneralLane(executor.anatomy), fail), tokens=500)
    found = scores(executor.measure(tasks, batches))
    names = {task.task_id: task.path for task in tasks}
    prefix = poisoned.layers[:3]
    hit = {path for path in names.values() if path.layers[:3] == prefix}
    assert len(hit) == 3
    for key, (outcome, detail, score) in found.items():
        if names[key[0]] in hit:
            assert (outcome, detail, score) == (Outcome.ERROR, "ValueError: made up", None)
        else:
            assert (outcome, detail, score) == sound[key]


def test_memory_that_runs_out_halves_the_micro_batch_and_changes_no_row(
    loaded: LoadedModel, probe_file: Path, tmp_path: Path
) -> None:
    batches = batches_of(loaded, probe_file)
    tasks = tasks_of(EVERYTHING)
    expected = scores(executor_of(loaded, tmp_path).measure(tasks, batches))

    def fail(k: int, stack: torch.Tensor) -> Exception | None:
        return OUT_OF_MEMORY if stack[..., 0].numel() > 70 else None

    lane = Watched(GeneralLane(executor_of(loaded, tmp_path).anatomy), fail)
    executor = executor_of(loaded, tmp_path, lane, tokens=1_000)
    assert scores(executor.measure(tasks, batches)) == expected
    assert executor._calibration.tokens is not None
    assert executor._calibration.tokens <= 70


@pytest.mark.parametrize("lane", ["general", "fused"])
def test_a_batch_that_does_not_fit_is_run_in_halves_down_to_single_samples(
    lane: str, loaded: LoadedModel, tmp_path: Path
) -> None:
    token_ids = torch.randint(0, 90, (5, 12), generator=torch.Generator().manual_seed(0))
    token_ids[:, :9] = token_ids[0, :9]  # a shared prefix, which the fused lane packs
    expected = executor_of(loaded, tmp_path / "a", lane_of(loaded, lane)).logits(GRID, token_ids)

    def fail(k: int, stack: torch.Tensor) -> Exception | None:
        return OUT_OF_MEMORY if stack[..., 0].numel() > 13 and k != 0 else None

    executor = executor_of(loaded, tmp_path / "b", lane_of(loaded, lane))
    boundaries = executor._baseline.boundaries([executor.lane.inputs(token_ids)])
    assert len(boundaries) == 1
    watched = Watched(lane_of(loaded, lane), fail)
    again = executor_of(loaded, tmp_path / "b", watched)
    for path, logits in again.logits(GRID, token_ids).items():
        theirs = expected[path]
        assert isinstance(logits, torch.Tensor), logits
        assert isinstance(theirs, torch.Tensor)
        assert torch.allclose(logits, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


def test_one_sample_that_does_not_fit_is_an_outcome_with_the_numbers(
    loaded: LoadedModel, probe_file: Path, tmp_path: Path
) -> None:
    batches = batches_of(loaded, probe_file)
    executor_of(loaded, tmp_path).logits(GRID, batches[0].token_ids)
    for batch in batches:
        executor_of(loaded, tmp_path).logits(GRID[:1], batch.token_ids)
    lane = Watched(
        GeneralLane(executor_of(loaded, tmp_path).anatomy), lambda k, stack: OUT_OF_MEMORY if k == 4 else None
    )
    rows = list(executor_of(loaded, tmp_path, lane).measure(tasks_of(GRID), batches))
    errors = [row for row in rows if row.outcome is Outcome.ERROR]
    assert errors
    assert all(
        "MemoryError: one sample of" in str(row.detail) and "layer 4" in str(row.detail) for row in errors
    )
    assert {row.task_id for row in rows if row.outcome is Outcome.OK} == {
        task.task_id for task in tasks_of(GRID) if 4 not in task.path.layers[task.path.shared_prefix() :]
    }


def test_whoever_raises_while_a_task_is_reported_stops_the_work(
    loaded: LoadedModel, probe_file: Path, tmp_path: Path
) -> None:
    class Enough(Exception):
        pass

    def stop(task_id: str) -> None:
        raise Enough

    with pytest.raises(Enough):
        list(
            executor_of(loaded, tmp_path).measure(
                tasks_of(GRID), batches_of(loaded, probe_file), on_task=stop
            )
        )


def test_apart_names_each_task_before_it_runs(loaded: LoadedModel, probe_file: Path, tmp_path: Path) -> None:
    said: list[str] = []
    tasks = tasks_of(GRID[:5])
    rows = list(
        executor_of(loaded, tmp_path).measure(
            tasks, batches_of(loaded, probe_file), on_task=said.append, apart=True
        )
    )
    assert said == [task.task_id for task in tasks]
    assert [row.task_id for row in rows] == [task.task_id for task in tasks for _ in range(8)]


def test_units_that_would_not_fit_together_travel_in_several_waves(
    loaded: LoadedModel, probe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = batches_of(loaded, probe_file)
    tasks = tasks_of(EVERYTHING)
    expected = scores(executor_of(loaded, tmp_path).measure(tasks, batches))
    monkeypatch.setattr("neuroscan_farm.engine.executor._UNITS_BYTES", 30_000)
    rows: list[Measurement] = list(executor_of(loaded, tmp_path).measure(tasks, batches))
    assert scores(rows) == expected


def test_on_several_devices_a_wave_is_read_when_the_next_one_is_under_way(
    loaded: LoadedModel, probe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = batches_of(loaded, probe_file)
    tasks = tasks_of(GRID)
    expected = scores(executor_of(loaded, tmp_path).measure(tasks, batches))
    monkeypatch.setattr(loaded.model, "hf_device_map", {"first half": 0, "second half": 1}, raising=False)
    executor = executor_of(loaded, tmp_path)
    order: list[str] = []
    carry_out, logits = Wave.carry_out, executor._heads.logits

    def noted_wave(wave: Wave, on_step: Any) -> None:
        order.append("run")
        carry_out(wave, on_step)

    def noted_logits(*arguments: Any) -> Any:
        order.append("read")
        return logits(*arguments)

    monkeypatch.setattr(Wave, "carry_out", noted_wave)
    monkeypatch.setattr(executor._heads, "logits", noted_logits)
    assert scores(executor.measure(tasks, batches)) == expected
    assert order == ["run", *["run", "read"] * (2 * len(batches) - 1), "read"]


def test_experts_are_never_stacked(tmp_path: Path, probe_file: Path) -> None:
    loaded = load(make_tiny("mixtral", tmp_path / "m"), EngineOptions())
    executor = executor_of(loaded, tmp_path)
    watched = Watched(executor.lane)
    executor = executor_of(loaded, tmp_path, watched, tokens=10_000)
    list(executor.measure(tasks_of(GRID), batches_of(loaded, probe_file)))
    assert watched.sizes == {1}


SHORT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from tests.engine.test_executor import GRID, batches_of, executor_of, scores, tasks_of
from neuroscan_farm.domain.requests import EngineOptions
from neuroscan_farm.engine.loading import load

torch.set_num_threads(1)
model, probe, folder = map(Path, sys.argv[1:])
loaded = load(model, EngineOptions(lane="general"))
batches, tasks = batches_of(loaded, probe, batch_size=64), tasks_of(GRID)
plenty = scores(executor_of(loaded, folder, tokens=1).measure(tasks, batches))
executor = executor_of(loaded, folder, tokens=10**6)
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + 40_000_000, resource.RLIM_INFINITY))
short = scores(executor.measure(tasks, batches))
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert short == plenty, [row for key, row in short.items() if row != plenty[key]][:3]
print("tokens", executor._calibration.tokens)
"""


def test_a_process_that_really_runs_out_of_memory_goes_on_with_smaller_micro_batches(
    tiny_llama: Path, tmp_path: Path
) -> None:
    probe = tmp_path / "many.json"
    samples = [{"prompt": f"{a:02}+{b:02}=" * 12, "answer": str(b % 10)} for a in range(8) for b in range(8)]
    probe.write_text(json.dumps({"name": "many", "samples": samples}))
    done = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(tiny_llama), str(probe), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "out of memory with" in done.stderr
    assert int(done.stdout.split()[1]) < 10**6
