"""Who may ask what: hosts, tokens, origins, sizes, and what a submission may name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from neuroscan_farm import demo
from neuroscan_farm.cli.main import app
from neuroscan_farm.errors import RequestError
from neuroscan_farm.serve.app import make_app
from neuroscan_farm.serve.config import MOST_BODY_BYTES, ServeConfig, folders_of
from neuroscan_farm.serve.security import cookie_value
from tests.serve.api import Api, a_request

TOKEN = "a-token-that-nobody-guesses"
PROBE = {"name": "mine", "samples": [{"prompt": "1+1=", "answer": "2"}, {"prompt": "2+2=", "answer": "4"}]}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One server for all that is refused, and so changes nothing."""
    return Api(tmp_path_factory.mktemp("refusing") / "runs")


@pytest.fixture
def fresh(tmp_path: Path) -> Api:
    return Api(tmp_path / "runs")


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> Api:
    """One server with a token for all who do not have it."""
    return Api(tmp_path_factory.mktemp("shut") / "runs", token=TOKEN)


@pytest.fixture
def locked(tmp_path: Path) -> Api:
    return Api(tmp_path / "runs", token=TOKEN)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "gpu-box"])
def test_another_host_without_a_token_is_refused_at_the_start(host: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="set a token with NEUROSCAN_SERVE_TOKEN"):
        make_app(ServeConfig(runs_dir=tmp_path, host=host))
    make_app(ServeConfig(runs_dir=tmp_path, host=host, token=TOKEN))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_this_machine_alone_needs_no_token(host: str, tmp_path: Path) -> None:
    make_app(ServeConfig(runs_dir=tmp_path, host=host))


@pytest.mark.parametrize(
    "token", ["short", "", "with space in the middle of it", "with\ttab-in-the-middle", "ü" * 20]
)
def test_a_token_that_can_be_guessed_or_not_be_sent_is_refused(token: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="token"):
        make_app(ServeConfig(runs_dir=tmp_path, token=token))


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:8642", "127.0.0.1.evil.example", ""]
)
def test_a_name_that_may_have_been_rebound_to_us_is_no_name_of_ours(api: Api, host: str) -> None:
    response = api.client.get("/api/v1/runs", headers={"host": host})
    assert response.status_code == (421 if host else 400)
    assert "error" in response.json()


@pytest.mark.parametrize("host", ["localhost:8642", "127.0.0.1", "[::1]:8642", "10.0.0.3:80", "LOCALHOST"])
def test_addresses_and_localhost_are_names_of_ours(api: Api, host: str) -> None:
    assert api.client.get("/api/v1/runs", headers={"host": host}).status_code == 200


def test_further_names_can_be_given(tmp_path: Path) -> None:
    api = Api(tmp_path / "runs", names=("scans.example",))
    assert api.client.get("/api/v1/runs", headers={"host": "scans.example"}).status_code == 200


def test_without_the_token_nothing_of_the_runs_is_told(shut: Api) -> None:
    for path in (
        "/api/v1/runs",
        "/api/v1/runs/x",
        "/api/v1/metrics",
        "/api/v1/openapi.json",
        "/api/v1/events",
        "/nothing",
    ):
        response = shut.client.get(path, headers={"accept": "application/json"})
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert shut.client.post("/api/v1/runs", json=a_request()).status_code == 401
    assert shut.client.get("/api/v1/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    "said", [f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer", f"Bearer {TOKEN[:-1]}"]
)
def test_what_is_not_the_token_does_not_open(shut: Api, said: str) -> None:
    assert shut.client.get("/api/v1/runs", headers={"authorization": said}).status_code == 401


def test_the_token_opens_as_a_header(shut: Api) -> None:
    assert shut.client.get("/api/v1/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_a_link_with_the_token_gives_a_cookie_that_opens_and_does_not_hold_it(locked: Api) -> None:
    answer = locked.client.get("/login", params={"token": TOKEN}, follow_redirects=False)
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert TOKEN not in cookie
    assert locked.client.get("/api/v1/runs").status_code == 200  # the client kept it
    other = Api(Path(locked.config.runs_dir), token=TOKEN)  # a server that was started again takes it too
    other.client.cookies.set(other.config.cookie, cookie_value(TOKEN))
    assert other.client.get("/api/v1/runs").status_code == 200
    other.client.cookies.set(other.config.cookie, cookie_value("another-token-of-length"))
    assert other.client.get("/api/v1/runs", headers={"cookie": "broken=;=;;"}).status_code == 401


def test_a_wrong_token_gives_no_cookie(locked: Api) -> None:
    answer = locked.client.get("/login", params={"token": "guess"}, follow_redirects=False)
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    form = locked.client.post("/login", content=b"token=guess", follow_redirects=False)
    assert form.status_code == 401
    right = locked.client.post("/login", content=f"token={TOKEN}".encode(), follow_redirects=False)
    assert right.status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://localhost:8642"},
        {"origin": "http://["},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://127.0.0.1:8642", "sec-fetch-site": "cross-site"},
    ],
)
def test_a_page_of_another_site_writes_nothing(api: Api, headers: dict[str, str]) -> None:
    response = api.client.post("/api/v1/runs", json=a_request(), headers=headers)
    assert response.status_code == 403
    assert api.get("/runs")["all"] == 0


def test_our_own_page_and_programs_write(fresh: Api) -> None:
    own = {"origin": "http://127.0.0.1:8642", "sec-fetch-site": "same-origin"}
    assert fresh.client.post("/api/v1/runs", json=a_request(), headers=own).status_code == 201
    assert fresh.client.post("/api/v1/runs", json=a_request()).status_code == 200


def test_a_body_is_bounded_with_a_length_and_without(api: Api) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(12):
            yield b" " * 100_000

    said = {"content-type": "application/json"}
    for content in (b" " * (MOST_BODY_BYTES + 1), pieces()):
        response = api.client.post("/api/v1/runs", content=content, headers=said)
        assert response.status_code == 413
        assert "larger than" in response.json()["error"]
    lying = api.client.post("/api/v1/runs", content=b"{}", headers={**said, "content-length": "9" * 30})
    assert lying.status_code == 413


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_form_of_another_site_is_no_request(api: Api, kind: str) -> None:
    body = json.dumps(a_request()).encode()
    response = api.client.post("/api/v1/runs", content=body, headers={"content-type": kind})
    assert response.status_code == 415


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b"[" * 5000, b""])
def test_what_is_no_json_is_said_to_be_none(api: Api, body: bytes) -> None:
    response = api.client.post("/api/v1/runs", content=body, headers={"content-type": "application/json"})
    assert response.status_code in {400, 422}
    assert "error" in response.json()


def test_every_answer_forbids_scripts_from_elsewhere_and_guessing_of_types(api: Api) -> None:
    for path in ("/", "/api/v1/runs", "/api/v1/runs/none", "/nothing", "/static/none.js"):
        headers = api.client.get(path).headers
        policy = dict(
            part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";")
        )
        assert policy["script-src"] == "'self'"
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    refused = api.client.get("/api/v1/runs", headers={"host": "evil.example"})
    assert "content-security-policy" in refused.headers


@pytest.mark.parametrize("name", ["..%2f..%2fetc", ".hidden", "a%00b", "x" * 300, "%5c..%5c", "run%20"])
def test_an_id_leads_to_a_run_of_ours_or_nowhere(api: Api, name: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    for path in (f"/api/v1/runs/{name}", f"/api/v1/runs/{name}/rows", f"/api/v1/runs/{name}/events"):
        assert api.client.get(path).status_code == 404


def test_the_settings_in_force_do_not_tell_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEUROSCAN_SERVE_TOKEN", TOKEN)
    for options in ([], ["--json"]):
        shown = CliRunner().invoke(app, ["config", "show", *options])
        assert shown.exit_code == 0
        assert "serve_token" in shown.stdout
        assert TOKEN not in shown.stdout


# What a submission may name


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("roots")


@pytest.fixture(scope="module")
def roots(place: Path) -> dict[str, Any]:
    tmp_path = place
    models, probes = tmp_path / "models", tmp_path / "probes"
    shutil.copytree(demo.MODEL_DIR, models / "good")
    shutil.copytree(demo.MODEL_DIR, tmp_path / "outside")
    (models / "link").symlink_to(tmp_path / "outside")
    probes.mkdir()
    (probes / "mine.json").write_text(json.dumps(PROBE))
    (tmp_path / "secret.json").write_text(json.dumps(PROBE))
    (probes / "link.json").symlink_to(tmp_path / "secret.json")
    return {
        "models": folders_of(str(models), name="models"),
        "probes": folders_of(str(probes), name="probes"),
        "hub_models": ("acme/*",),
    }


@pytest.fixture(scope="module")
def rooted(roots: dict[str, Any], place: Path) -> Api:
    """One server with roots for all that is refused there."""
    return Api(place / "refusing", **roots)


def test_a_model_below_a_root_is_taken_by_its_path_and_by_its_name(
    roots: dict[str, Any], place: Path, tmp_path: Path
) -> None:
    api = Api(tmp_path / "runs", **roots)
    made = api.post("/runs", a_request(model=str(place / "models" / "good")), status=201)
    again = api.post("/runs", a_request(model="good"))
    assert again["id"] == made["id"]
    told = api.get("/options")
    assert str(place / "models" / "good") in [one["model"] for one in told["models"]]
    assert str(place / "models" / "link") not in [one["model"] for one in told["models"]]


@pytest.mark.parametrize(
    "model",
    ["{outside}", "link", "../outside", "good/../../outside", "/etc", "~", "/", "hub/model", "acme", "\x00"],
)
def test_any_other_model_is_refused_and_whether_it_exists_is_not_told(
    model: str, rooted: Api, place: Path
) -> None:
    asked = model.format(outside=place / "outside")
    said = rooted.post("/runs", a_request(model=asked), status=422)
    assert said["fields"]["model"].startswith(f"is {asked!r}, which may not be submitted here")
    assert "NEUROSCAN_SERVE_MODELS" in said["mend"]


def test_hub_ids_are_taken_as_far_as_they_are_allowed(tmp_path: Path) -> None:
    config = ServeConfig(runs_dir=tmp_path, hub_models=("Qwen/*", "acme/tiny"))
    assert config.accepts_hub_model("Qwen/Qwen3-0.6B")
    assert config.accepts_hub_model("acme/tiny")
    assert not config.accepts_hub_model("acme/tiny2")
    assert not config.accepts_hub_model("qwen/Qwen3")
    api = Api(tmp_path / "runs", hub_models=("acme/*",))
    said = api.post(
        "/runs", a_request(model="acme/none"), status=422
    )  # asked of the hub, which is offline here
    assert "hub gave no such model" in said["error"]


def test_a_folder_beside_the_server_is_not_the_bundled_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert Api(tmp_path / "runs").post("/runs", a_request(), status=201)["tasks"] > 1


def test_the_code_of_a_model_is_never_run_for_clients(api: Api) -> None:
    said = api.post("/runs", a_request(engine={"trust_remote_code": True}), status=422)
    assert list(said["fields"]) == ["engine.trust_remote_code"]


@pytest.mark.parametrize(
    "probe", ["/etc/passwd", "../secret.json", "link.json", "{tmp}/secret.json", "nope", "none.json"]
)
def test_a_probe_file_outside_of_the_roots_is_refused(probe: str, rooted: Api, place: Path) -> None:
    said = rooted.post("/runs", a_request(probes=[probe.format(tmp=place)]), status=422)
    assert "probes" in said["fields"]


def test_a_probe_file_below_a_root_is_taken(roots: dict[str, Any], tmp_path: Path) -> None:
    api = Api(tmp_path / "runs", **roots)
    assert api.post("/runs", a_request(probes=["mine.json"]), status=201)["run"]["probes"] == ["mine"]


@pytest.mark.parametrize("name", ["../mine", "a/b", ".mine", "demo-chain", "<b>", "x" * 101])
def test_an_inline_probe_has_a_plain_name_of_its_own(api: Api, name: str) -> None:
    said = api.post("/runs", a_request(probes=[{**PROBE, "name": name}]), status=422)
    assert "probes.0" in said["fields"]


def test_two_inline_probes_of_one_name_are_refused(api: Api) -> None:
    assert "probes.1" in api.post("/runs", a_request(probes=[PROBE, PROBE]), status=422)["fields"]


def test_where_a_run_is_written_is_not_for_clients_to_say(api: Api) -> None:
    for field in ("output", "runs_dir", "directory"):
        said = api.post("/runs", a_request(**{field: "/tmp/elsewhere"}), status=422)
        assert field in said["fields"]


def test_text_of_a_model_or_a_probe_leaves_as_json_and_never_as_markup(fresh: Api) -> None:
    nasty = "<script>alert(1)</script>"
    probe = {"name": "nasty", "description": nasty, "samples": [{"prompt": f"{nasty}=", "answer": "2"}]}
    made = fresh.post("/runs", a_request(probes=[probe]), status=201)
    task = fresh.get(f"/runs/{made['id']}/configurations", baseline=True)["configurations"][0]["task_id"]
    response = fresh.client.get(
        f"/api/v1/runs/{made['id']}/configurations/{task}", headers={"accept": "text/html"}
    )
    assert response.headers["content-type"] == "application/json"
    assert response.json()["samples"][0]["prompt"] == f"{nasty}="


def test_a_fault_of_our_own_tells_nothing_of_its_inside(fresh: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object, **_options: object) -> None:
        raise KeyError("a secret of the server")

    monkeypatch.setattr(fresh.server.runs, "listing", broken)
    quiet = TestClient(fresh.app, base_url="http://127.0.0.1:8642", raise_server_exceptions=False)
    response = quiet.get("/api/v1/runs")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"] == "a fault of the server's own"
