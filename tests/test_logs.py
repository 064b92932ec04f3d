"""A line of the log says when, where and what, carries the ids of the work at hand, and never a secret."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.dispatch.broker_url import redacted
from neuroscan_farm.logs import LogFormat, LogFormatter, log_context, log_ids, without_secrets

Written = Callable[[], list[str]]


@pytest.fixture
def log() -> Iterator[Callable[..., tuple[logging.Logger, Written]]]:
    """Return a function that makes a logger of this test's own and what it wrote."""
    undo = []

    def make(
        form: LogFormat = "json", worker: str | None = None, name: str = "test_logs"
    ) -> tuple[logging.Logger, Written]:
        logger, stream = logging.getLogger(name), io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(LogFormatter(form, worker=worker))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        undo.append((logger, handler))
        return logger, lambda: stream.getvalue().splitlines()

    yield make
    for logger, handler in undo:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True


def test_a_line_of_json_says_when_where_and_what(log: Any) -> None:
    logger, written = log()
    logger.warning("layer %d of\n%s", 3, "a model")
    [line] = [json.loads(text) for text in written()]
    assert list(line) == ["time", "level", "logger", "message"]
    assert line["time"].endswith("Z")
    assert len(line["time"]) == len("2026-01-01T00:00:00.000Z")
    assert datetime.fromisoformat(line["time"]).tzinfo is not None
    assert (line["level"], line["logger"], line["message"]) == ("WARNING", "test_logs", "layer 3 of\na model")


def test_lines_inside_a_context_carry_its_ids_and_lines_outside_do_not(log: Any) -> None:
    logger, written = log(worker="w1")
    logger.info("before")
    with log_context(run="r", attempt=2):
        with log_context(shard="s1"):
            log_ids(task="t1")
            logger.info("inside")
            log_ids(task="t2")
            logger.info("next task")
        logger.info("the shard is over")
    log_ids(task="t3")
    logger.info("after")
    ids = [
        {k: v for k, v in json.loads(line).items() if k not in ("time", "level", "logger", "message")}
        for line in written()
    ]
    outer = {"run": "r", "worker": "w1", "attempt": 2}
    assert ids == [
        {"worker": "w1"},
        outer | {"shard": "s1", "task": "t1"},
        outer | {"shard": "s1", "task": "t2"},
        outer,
        {"worker": "w1"},
    ]


def test_a_context_ends_with_an_error_too_and_none_takes_an_id_away(log: Any) -> None:
    logger, written = log()

    def fail() -> None:
        logger.info("inside")
        raise KeyError

    with pytest.raises(KeyError), log_context(run="r", task="t"), log_context(task=None):
        fail()
    logger.info("after")
    inside, after = map(json.loads, written())
    assert inside["run"] == "r"
    assert "task" not in inside
    assert "run" not in after


def test_an_id_that_no_reader_of_the_log_knows_is_our_mistake() -> None:
    with pytest.raises(ValueError, match="sahrd: the ids of a line are run, shard, task, worker, attempt"):
        log_context(sahrd="s").__enter__()


def test_a_thread_that_was_given_the_context_sees_the_new_task(log: Any) -> None:
    logger, written = log()
    begun, changed = threading.Event(), threading.Event()

    def beat() -> None:
        begun.set()
        assert changed.wait(30)
        logger.info("beat")

    with log_context(run="r", task="t1"):
        thread = threading.Thread(target=contextvars.copy_context().run, args=[beat])
        thread.start()
        assert begun.wait(30)
        log_ids(task="t2")
        changed.set()
        thread.join()
    [line] = map(json.loads, written())
    assert (line["run"], line["task"]) == ("r", "t2")


def test_a_line_of_text_has_the_ids_that_its_message_does_not_say(log: Any) -> None:
    logger, written = log("text")
    with log_context(run="r-1", shard="s1", task="t1"):
        logger.warning("run r-1 goes on")
    [line] = written()
    assert line.endswith("Z WARNING test_logs: run r-1 goes on [shard=s1 task=t1]")


def test_an_exception_is_one_field_of_json_and_lines_of_text(log: Any) -> None:
    for form in ("json", "text"):
        logger, written = log(form, name=f"test_logs.{form}")
        logger.propagate = False
        try:
            raise OSError("redis://:opensesame@host/0 is away")
        except OSError:
            logger.exception("failed at rediss://me:opensesame@host:1/0")
        lines = written()
        assert "opensesame" not in "\n".join(lines)
        if form == "json":
            [line] = map(json.loads, lines)
            assert line["message"] == "failed at rediss://me:***@host:1/0"
            assert line["exception"].startswith("Traceback (most recent call last)")
            assert line["exception"].endswith("OSError: redis://:***@host/0 is away")
        else:
            assert lines[1] == "Traceback (most recent call last):"
            assert lines[-1] == "OSError: redis://:***@host/0 is away"


def test_a_wrong_format_costs_no_line(log: Any) -> None:
    logger, written = log()
    logger.propagate = False
    logger.info("%d layers", "six")
    [line] = map(json.loads, written())
    assert "%d layers" in line["message"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("redis://:pw@host:6379/0", "redis://:***@host:6379/0"),
        ("rediss://me:p@ss:w/rd@host/0?ssl_ca_certs=/ca.pem", "rediss://me:***@host/0?ssl_ca_certs=/ca.pem"),
        ("at redis+socket://:pw@/run/redis.sock now", "at redis+socket://:***@/run/redis.sock now"),
        ("s3://KEY:SECRET@bucket/runs", "s3://KEY:***@bucket/runs"),
        ("Connection<host=h,password='p w',db=0>", "Connection<host=h,password=***,db=0>"),
        ("{'aws_secret_access_key': 'abc/def', 'x': 1}", "{'aws_secret_access_key': ***, 'x': 1}"),
        ("redis://host:6379/0?password=pw&db=1", "redis://host:6379/0?password=***&db=1"),
        ("nothing at http://host:80/a, a@b.c", "nothing at http://host:80/a, a@b.c"),
        ("sample 3: token: odd, tokens=12, top_token='7'", "sample 3: token: odd, tokens=12, top_token='7'"),
    ],
)
def test_passwords_are_not_shown(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


password = st.text(st.characters(codec="ascii", exclude_categories=["Z", "C"]), min_size=1, max_size=20)


@given(password.map(lambda text: f"<{text}>"), st.sampled_from(["", "me"]))
def test_whatever_a_password_is_made_of_no_url_shows_it(secret: str, user: str) -> None:
    url = f"redis://{user}:{secret}@host:6379/0"
    assert without_secrets(url) == redacted(url) == f"redis://{user}:***@host:6379/0"
    assert secret not in without_secrets(f"broker {url}: out of reach; set it ({url!r})")


def test_a_real_run_says_on_each_line_of_its_log_which_shard_and_task_it_is_about(
    tiny_llama: Path, probe_file: Path, tmp_path: Path, own_settings: Path
) -> None:
    command = [sys.executable, "-m", "neuroscan_farm", "run", "duplication", "-m", str(tiny_llama)]
    command += ["-p", str(probe_file), "--block", "1,3", "-o", str(tmp_path / "run")]
    environment = os.environ | {"NEUROSCAN_LOG_FORMAT": "json", "NEUROSCAN_LOG_LEVEL": "INFO"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines() if line.startswith("{")]
    of_the_gate = [line for line in lines if "gate passed" in line["message"]]
    assert of_the_gate
    for line in of_the_gate:
        assert line["worker"] == "local-0"
        assert line["run"].startswith("duplication-tiny-llama-")
        assert line["shard"].startswith("s")
        assert line["attempt"] == 1
