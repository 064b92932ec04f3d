"""A thousand malformed requests, options, probes, messages and run files: each a clear error or handled, nothing damaged.

The inputs are made by seed (`malformed.py`), so that a failure names the seed that makes it again. What may come out is a
result, or one of our errors with a message that a person can read; every other exception is a bug.
"""

from __future__ import annotations

import base64
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import yaml

from neuroscan_farm.analyses import read_request
from neuroscan_farm.cli.layers import request_from
from neuroscan_farm.cli.main import app, run_guarded
from neuroscan_farm.coordinator.drive import drive
from neuroscan_farm.coordinator.overview import look_at, runs_in
from neuroscan_farm.coordinator.prepare import make_plan, prepare, wake
from neuroscan_farm.dispatch.broker import Broker
from neuroscan_farm.dispatch.broker_orders import lists_of
from neuroscan_farm.dispatch.broker_url import client_url
from neuroscan_farm.dispatch.celery_queue import make_app, send_order, submit
from neuroscan_farm.dispatch.in_process import InProcess
from neuroscan_farm.dispatch.wire import ShardOrder, model_queue
from neuroscan_farm.domain.measurements import Outcome
from neuroscan_farm.domain.probes import Probe
from neuroscan_farm.errors import NeuroscanError
from neuroscan_farm.probes.loader import load_probe_file, parse_probe
from neuroscan_farm.store.attempts import Attempt
from neuroscan_farm.store.run_directory import RunDirectory
from tests.conftest import MakeRun
from tests.farm_fixtures import StartWorker, wait_for
from tests.faults.malformed import damaged, otherwise
from tests.paper_models import finish, paper_model, paper_plan, paper_probe
from workers.task import read_order

# How many inputs come to each door; together at least a thousand, in every check.
CASES = {
    "request file": 200,
    "request": 150,
    "request with a model": 100,
    "option": 150,
    "command line": 100,
    "probe file": 200,
    "probe": 100,
    "run file": 200,
    "run driven on": 10,
    "message": 200,
    "message in the queue": 80,
}
_LONGEST_MESSAGE = 10_000  # characters: what was given is cut before it is shown, but for names of files

REQUEST: dict[str, Any] = {
    "analysis": "duplication",
    "model": "demo",
    "revision": None,
    "probes": ["math", "mine.json"],
    "metric": "log_odds",
    "shard_size": 4,
    "parameters": {
        "min_block": 1,
        "max_block": 4,
        "step": 1,
        "skip_early": 0,
        "skip_late": 1,
        "times": 2,
        "blocks": ["1,2", "1,3;4,5x3"],
        "paths": ["0..3,1..5"],
        "sparse_first": False,
        "sparse_step": 4,
        "refine_top": 3,
    },
    "engine": {
        "dtype": "auto",
        "device": "cpu",
        "attention": "auto",
        "lane": "auto",
        "residual": "auto",
        "batch_size": 4,
        "prompt_format": "raw",
        "trust_remote_code": False,
    },
}
CHOICES: dict[str, Any] = {
    "name": "words",
    "description": "of three",
    "scoring": "choices",
    "choices": ["yes", "no", "maybe"],
    "scoring_suffix": " =",
    "samples": [
        {"id": "a", "prompt": "q1", "answer": "yes", "category": "c", "metadata": {"a": [1, {"b": None}]}},
        {"prompt": "q2", "correct_answer": "no", "expected_score": 1.5, "scoring_suffix": "?"},
    ],
}
DIGITS: dict[str, Any] = {
    "name": "sums",
    "samples": [
        {"prompt": "1+1=", "expected_score": 2},
        {"prompt": "1+2=", "answer": 3, "expected_score": 7.5, "metadata": {"category": "x"}},
        {"prompt": "4+5=", "answer": "9"},
    ],
}


def seeds(door: str) -> Iterator[tuple[int, Random]]:
    """The seeds of a door's inputs, each with the chance that is made of it."""
    for seed in range(CASES[door]):
        yield seed, Random(f"{door} {seed}")


def explained(read: Callable[[], object], given: object) -> object | None:
    """Read an input; return what came of it, or None where one of our errors explains it."""
    try:
        return read()
    except NeuroscanError as error:
        message = str(error)
        assert message.strip(), f"{given!r:.2000}: an error without a word"
        assert "Traceback" not in message
        assert len(message) < _LONGEST_MESSAGE, f"{given!r:.2000}: a message of {len(message)} characters"
        return None
    except Exception as error:
        raise AssertionError(f"{given!r:.2000}: {type(error).__name__} is no error of ours") from error


def test_there_are_a_thousand_inputs() -> None:
    assert sum(CASES.values()) >= 1000


def test_a_malformed_request_file_is_read_or_explained(tmp_path: Path) -> None:
    sound = yaml.safe_dump(REQUEST, sort_keys=False).encode()
    path = tmp_path / "request.yaml"
    refused = 0
    for _, random in seeds("request file"):
        given = damaged(sound, random)
        path.write_bytes(given)
        refused += explained(lambda: request_from({}, config=path, sets=[], environment={}), given) is None
    assert refused > CASES["request file"] / 2, "most damage is noticed"


def test_a_malformed_request_is_read_or_explained() -> None:
    for _, random in seeds("request"):
        given = otherwise(REQUEST, random)
        explained(lambda given=given: read_request(given, where="request"), given)  # type: ignore[misc]


def test_a_request_that_fits_no_model_is_planned_or_explained(tmp_path: Path) -> None:
    model, probe = paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json")
    sound = REQUEST | {"model": str(model), "probes": [str(probe)]}
    sound["parameters"] = {k: v for k, v in REQUEST["parameters"].items() if k not in ("blocks", "paths")}
    for _, random in seeds("request with a model"):
        given = otherwise(sound, random)
        explained(lambda given=given: make_plan(read_request(given, where="request")), given)  # type: ignore[misc]


def test_malformed_options_and_variables_are_read_or_explained() -> None:
    flags = {"analysis": "duplication", "model": "demo", "probes": ["math"]}
    words = [
        b"parameters.step=2",
        b"engine.dtype=auto",
        b"parameters.blocks=[1,2]",
        b"probes=[math]",
        b"model=demo",
    ]
    values = {
        "STEP": b"2",
        "DTYPE": b"auto",
        "PROBES": b"math,easy",
        "BLOCKS": b"[a, b]",
        "TRUST_REMOTE_CODE": b"no",
    }
    for seed, random in seeds("option"):
        sets, environment = [], {}
        if seed % 2:
            sets = [_argument(damaged(random.choice(words), random)) for _ in range(random.randint(1, 2))]
        else:
            name = random.choice(list(values))
            environment[f"NEUROSCAN_{name}"] = _argument(damaged(values[name], random))
        given = (sets, environment)
        explained(
            lambda given=given: request_from(flags, config=None, sets=given[0], environment=given[1]),  # type: ignore[misc]
            given,
        )


def test_a_malformed_command_line_ends_with_a_message_and_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, probe = paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json")
    monkeypatch.chdir(tmp_path)
    sound = ["-m", str(model), "-p", str(probe), "--min-block", "1", "--block", "1,3", "--path", "0..3,1..5"]
    sound += ["--metric", "log_odds", "--set", "engine.batch_size=3", "-o", str(tmp_path / "out")]
    sound += ["--memory-limit", "1GB", "--gpu-split", "2200", "--shard-size", "4"]
    others = ["status", "report", "cancel", "watch", "resume", "pause", "drain"]
    others += ["probes validate", "probes show", "models inspect"]
    before = signal.getsignal(signal.SIGTERM)
    for seed, random in seeds("command line"):
        if seed % 2:
            line, place = ["plan", "duplication", *sound], 3 + 2 * random.randrange(len(sound) // 2)
        else:
            name = random.choice([str(model), str(probe), "math", "duplication-tiny", "out"])
            line = [*random.choice(others).split(), "--", name]
            place = len(line) - 1
        line[place] = _argument(damaged(line[place].encode(), random))
        try:
            code = run_guarded(lambda line=line: app(args=line, standalone_mode=True))  # type: ignore[misc]
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        assert code in (0, 2, 4, 5), f"{line!r:.2000}: exit code {code}"
        assert "Traceback" not in said.err, line
        assert code in (0, 2) or said.err.count("error: ") >= 1, f"{line!r:.2000}: ended without a word"
    signal.signal(signal.SIGTERM, before)
    assert not (tmp_path / "out").exists(), "planning makes nothing"


def test_a_malformed_probe_file_is_read_or_explained(tmp_path: Path) -> None:
    for seed, random in seeds("probe file"):
        probe = CHOICES if seed % 4 < 2 else DIGITS
        path = tmp_path / ("probe.json" if seed % 2 else "probe.yaml")
        text = json.dumps(probe, indent=1) if seed % 2 else yaml.safe_dump(probe, sort_keys=False)
        given = damaged(text.encode(), random)
        path.write_bytes(given)
        _sound(explained(lambda path=path: load_probe_file(path), given))  # type: ignore[misc]


def test_a_malformed_probe_is_read_or_explained() -> None:
    for seed, random in seeds("probe"):
        given = otherwise(CHOICES if seed % 2 else DIGITS, random)
        _sound(explained(lambda given=given: parse_probe(given, where="probe"), given))  # type: ignore[misc]


def _sound(probe: object | None) -> None:
    """A probe that came of malformed input can be kept in a run and read back from there."""
    if isinstance(probe, Probe):
        text = json.dumps(probe.to_json_dict(), allow_nan=False)
        assert parse_probe(json.loads(text), where="again") == probe
        probe.digest.encode("ascii")


def _argument(given: bytes) -> str:
    """Bytes as a command line or a variable brings them."""
    return given.replace(b"\x00", b"").decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a [*a]", "an alias stands inside of what it names"),
        ("a: !!timestamp x", "does not fit the tag"),
        ("a: !!int ''", "does not fit the tag"),
        ("a: !!bool x", "does not fit the tag"),
        ("a: " + "[" * 3000, "nested too deeply"),
        ("a: 0x" + "f" * 6000, "an integer of 24000 bits"),
        ("a: " + "9" * 5000, "integer string conversion"),
        (
            "a: &a0 [x, x, x, x, x, x, x, x, x]\n"
            + "\n".join(f"b{k}: &a{k + 1} [{', '.join([f'*a{k}'] * 9)}]" for k in range(9)),
            "its aliases unfold to more than 1,000,000 values",
        ),
    ],
)
def test_yaml_that_breaks_readers_is_explained_at_every_door(text: str, why: str, tmp_path: Path) -> None:
    for name, read in (
        ("request.yaml", lambda path: request_from({}, config=path, sets=[], environment={})),
        ("probe.yaml", load_probe_file),
    ):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(NeuroscanError, match=why) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: not ")
    with pytest.raises(NeuroscanError, match=why):
        request_from(
            {"analysis": "duplication"}, config=None, sets=[f"engine={text[3:]}"], environment={}
        ) if (text.count("\n") == 0) else read_request_of(text)


def read_request_of(text: str) -> object:
    return request_from(
        {"analysis": "duplication"}, config=None, sets=[], environment={"NEUROSCAN_STEP": text}
    )


ORDER: dict[str, Any] = {
    "version": 2,
    "run_id": "nobody-knows",
    "location": "/runs/nobody-knows",
    "shard_id": "s0123456789ab",
    "attempt": 1,
    "model": "0123456789abcdef",
    "priority": 5,
    "limit_seconds": 600.0,
}


def test_a_malformed_message_is_read_or_dropped(caplog: pytest.LogCaptureFixture) -> None:
    assert read_order((ORDER,), {}) is not None
    for _, random in seeds("message"):
        given = otherwise([[ORDER], {}], random)
        if not (isinstance(given, list) and len(given) == 2):
            continue
        arguments, options = given
        if not (isinstance(arguments, list | tuple) and isinstance(options, dict)):
            continue  # Celery itself makes these two of a message
        caplog.clear()
        order = explained(lambda a=arguments, o=options: read_order(tuple(a), o), given)  # type: ignore[misc]
        if order is None:
            assert len(caplog.messages) == 1
            assert len(caplog.messages[0]) < 1500


def test_malformed_messages_in_the_queue_end_no_worker_and_no_run(
    broker: Broker, start_worker: StartWorker, make_run: MakeRun
) -> None:
    run = make_run(executor="celery")
    model = run.manifest.model_fingerprint
    queue = model_queue(broker.queue, model)
    with redis.Redis.from_url(client_url(broker.url)) as client:
        sound = message_of(client, broker, ShardOrder(**ORDER | {"model": model}))
        for _, random in seeds("message in the queue"):
            client.lpush(random.choice(lists_of(queue)), malformed_message(sound, random))
        run.set_wanted("paused")  # so that its queue is read, and nothing else is in it
        submit(run, broker)
        worker = start_worker()
        wait_for(lambda: not any(map(client.llen, lists_of(queue))), "an empty queue")
        run.set_wanted("running")
        end = wait_for(lambda: broker.ended(run.manifest.run_id), "the end of the run")
    assert end is not None
    assert (end.state, end.reason) == ("finished", None)
    assert worker.poll() is None, "the worker lives on"
    assert run.attempts.all() == [], "and its child has not died on the way"
    assert run.parts.look().done == set(run.planned().task_ids)


def message_of(client: redis.Redis, broker: Broker, order: ShardOrder) -> dict[str, Any]:
    """An order as Celery puts it into the queue."""
    send_order(make_app(broker.url, "elsewhere"), "elsewhere", order)
    [found] = [
        json.loads(text)
        for name in lists_of(model_queue("elsewhere", order.model))
        for text in client.lrange(name, 0, -1)
    ]
    client.delete(*lists_of(model_queue("elsewhere", order.model)))
    return dict(found)


def malformed_message(sound: dict[str, Any], random: Random) -> bytes:
    """Damage a message: its bytes, its envelope, its headers, or the order inside."""
    match random.randrange(4):
        case 0:
            return damaged(json.dumps(sound).encode(), random)
        case 1:
            given = otherwise(sound, random)
        case 2:
            given = sound | {"headers": otherwise(sound["headers"], random)}
        case _:
            inside = otherwise(json.loads(base64.b64decode(sound["body"])), random)
            body = json.dumps(inside, default=str, skipkeys=True).encode()
            given = sound | {"body": base64.b64encode(body).decode()}
    return json.dumps(given, default=str, skipkeys=True).encode()


@pytest.fixture
def finished_run(tmp_path: Path) -> RunDirectory:
    """A run on paper with parts, one of them joined, a death, a refusal, and a cancellation that was taken back."""
    plan = paper_plan(paper_model(tmp_path / "tiny"), paper_probe(tmp_path / "sums.json"))
    run = prepare(plan, tmp_path / "run", executor="celery")
    shards = run.shards()
    finish(run, shards[:2])
    run.parts.compact()
    finish(run, shards[2:3], outcome=Outcome.ERROR)
    finish(run, shards[3:])
    task = shards[0].tasks[0].task_id
    run.attempts.record(
        Attempt(shards[0].shard_id, 1, "died", task, "w1", "killed", "2026-01-01T00:00:00+00:00")
    )
    run.attempts.record(
        Attempt(shards[1].shard_id, 1, "refused", None, "w2", "no", "2026-01-01T00:00:01+00:00")
    )
    run.set_wanted("cancelled")
    run.set_wanted("running", priority=7)
    return run


def test_a_run_with_a_malformed_file_is_read_or_explained_and_sound_parts_stay_readable(
    finished_run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    root = finished_run.root
    sound = {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
    rows = finished_run.parts.read()
    by_part = {
        path: set(part_rows(path))
        for path in sound
        if path.suffix == ".parquet" and path.parent.name == "parts"
    }
    for seed, random in seeds("run file"):
        path = random.choice(list(sound))
        foreign = random.choice([other for other in sound if other != path])
        given = sound[foreign] if seed % 10 == 0 else damaged_file(path, sound[path], random)
        path.write_bytes(given)
        touch_everything(root, (path, given))
        now = {found: found.read_bytes() for found in sorted(root.rglob("*")) if found.is_file()}
        assert now == sound | {path: given}, f"seed {seed}: looking at a run changes nothing in it"
        run = explained(lambda: RunDirectory.open(root), (path, given))
        if isinstance(run, RunDirectory) and path.name != "manifest.json":
            left = set(keys(run.parts.read()))
            assert left <= set(keys(rows)), f"seed {seed}: a row that nobody measured"
            assert left >= set(keys(rows)) - by_part.get(path, set()), (
                f"seed {seed}: a sound part is not read"
            )
        path.write_bytes(sound[path])
    assert RunDirectory.open(root).parts.read().equals(rows, check_metadata=True)


def damaged_file(path: Path, sound: bytes, random: Random) -> bytes:
    """Damage a file's bytes, or what a JSON file says."""
    if path.suffix == ".json" and random.random() < 0.6:
        return json.dumps(otherwise(json.loads(sound), random), default=str, skipkeys=True).encode()
    return damaged(sound, random)


def touch_everything(root: Path, given: object) -> None:
    """Do with a run whatever only looks at it."""
    run = explained(lambda: RunDirectory.open(root), given)
    explained(lambda: list(runs_in(root.parent)), given)
    if not isinstance(run, RunDirectory):
        return
    for look in (
        run.request,
        run.probes,
        run.shards,
        run.planned,
        run.plan_stamp,
        run.plan_complete,
        lambda: run.shard("s0123456789ab"),
        run.wanted,
        run.executor,
        run.priority,
        run.attempts.all,
        run.parts.look,
        run.parts.read,
        lambda: look_at(run).to_json_dict(timings=True),
        run.check_versions,
    ):
        explained(look, given)


def part_rows(path: Path) -> list[tuple[object, ...]]:
    return keys(pq.read_table(path, partitioning=None))


def keys(table: pa.Table) -> list[tuple[object, ...]]:
    """What identifies a row, and what was measured."""
    columns = ["task_id", "probe", "sample_id", "outcome", "log_odds", "path", "answer_probabilities"]
    return [tuple(map(repr, row.values())) for row in table.select(columns).to_pylist()]


def test_a_run_with_malformed_files_is_driven_to_its_end_and_its_table_is_as_before(
    finished_run: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    finished_run.attempts.settle()
    rows, location = sorted(keys(finished_run.parts.read())), finished_run.root

    def measure(run: RunDirectory, shard_id: str, attempt: int, on_task: Callable[[str], None]) -> None:
        shard = run.shard(shard_id)
        assert shard is not None
        finish(run, [shard])

    for _, random in seeds("run driven on"):
        parts = sorted((location / "parts").glob("*.parquet"))
        for path in random.sample(parts, min(2, len(parts))):
            path.write_bytes(damaged(path.read_bytes(), random))
        run = RunDirectory.open(location)
        wake(run)
        drive(run, InProcess(measure), poll_seconds=0.0)
        found = sorted(keys(RunDirectory.open(location).parts.read()))
        assert [row[:3] for row in found] == [row[:3] for row in rows]
