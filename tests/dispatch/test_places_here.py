"""Where others' places are here, and what may not be opened: tested on real folders and links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.dispatch.places_here import PlacesHere, read_path_map, read_places, read_roots
from neuroscan_farm.errors import RequestError, RunError


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    (store / "runs" / "one").mkdir(parents=True)
    (tmp_path / "elsewhere" / "one").mkdir(parents=True)
    return store


def test_a_run_below_a_root_is_where_it_is(store: Path) -> None:
    here = PlacesHere(roots=(str(store / "other"), str(store)))
    assert here.run_location(str(store / "runs" / "one")) == str((store / "runs" / "one").resolve())


def test_a_run_of_another_machine_is_where_the_map_says(store: Path) -> None:
    here = PlacesHere(
        roots=(str(store),), path_map=(("/mnt", "/nowhere"), ("/mnt/sweeps", str(store / "runs")))
    )
    assert here.run_location("/mnt/sweeps/one") == str((store / "runs" / "one").resolve())
    assert here.model_folder("/mnt/sweeps/model") == str(store / "runs" / "model")
    assert here.model_folder("/mnt/sweeps2/model") == "/nowhere/sweeps2/model"
    assert here.model_folder("/models/a") == "/models/a"
    assert here.model_folder("org/model") == "org/model"


def test_a_url_may_become_a_path_and_a_path_a_url(store: Path) -> None:
    here = PlacesHere(
        roots=(str(store), "s3://ours/runs"),
        path_map=(("s3://bucket", str(store)), ("/local", "s3://ours/runs")),
    )
    assert here.run_location("s3://bucket/runs/one") == str((store / "runs" / "one").resolve())
    assert here.run_location("/local/one") == "s3://ours/runs/one"


@pytest.mark.parametrize(
    "location",
    [
        "/etc",
        "/",
        "store/runs/one",
        "{store}/../elsewhere/one",
        "{store}-2/one",
        "{store}/runs/../../elsewhere/one",
        "file://{store}/runs/one",
        "s3://ours-2/runs/one",
        "s3://other/runs/one",
        "s3://ours/runs/../../other/one",
        "s3://ours/runs-2/one",
        "s3://ours/runs/%2e%2e/one",
        "s3://user:secret@ours/runs/one",
    ],
)
def test_what_is_outside_of_the_roots_is_refused(store: Path, location: str) -> None:
    here = PlacesHere(roots=(str(store), "s3://ours/runs"))
    with pytest.raises(RunError) as caught:
        here.run_location(location.format(store=store))
    assert "secret" not in str(caught.value) or "secret" in location


def test_a_link_that_leads_out_of_the_roots_is_refused(store: Path) -> None:
    here = PlacesHere(roots=(str(store),))
    (store / "link").symlink_to(store.parent / "elsewhere")
    with pytest.raises(RunError, match="outside of the roots"):
        here.run_location(str(store / "link" / "one"))
    (store / "runs" / "one" / "parts").symlink_to(store.parent / "elsewhere" / "one")
    with pytest.raises(RunError, match="parts is a link"):
        here.run_location(str(store / "runs" / "one"))


def test_a_link_that_stays_inside_is_followed(store: Path) -> None:
    (store / "link").symlink_to(store / "runs")
    here = PlacesHere(roots=(str(store),))
    assert here.run_location(str(store / "link" / "one")) == str((store / "runs" / "one").resolve())
    (store.parent / "way").symlink_to(store)
    assert PlacesHere(roots=(str(store.parent / "way"),)).run_location(str(store / "runs" / "one"))


def test_a_mapped_place_is_confined_too(store: Path) -> None:
    here = PlacesHere(roots=(str(store),), path_map=(("/mnt", "/etc"),))
    with pytest.raises(RunError, match="outside of the roots"):
        here.run_location("/mnt/one")


def test_without_roots_the_users_own_folders_are_taken_and_no_others(store: Path) -> None:
    mine, theirs = store / "runs" / "one", store / "runs" / "theirs"
    assert PlacesHere().run_location(str(mine)) == str(mine.resolve())
    theirs.mkdir()
    if os.geteuid() == 0:
        os.chown(theirs, 12345, 12345)
        with pytest.raises(RunError, match="belongs to user 12345"):
            PlacesHere().run_location(str(theirs))
    with pytest.raises(RunError, match="NEUROSCAN_ROOTS"):
        PlacesHere().run_location("s3://bucket/runs/one")


def test_an_object_store_is_taken_where_runs_are_made() -> None:
    here = read_places(roots="", path_map="", runs_dir="s3://ours/runs/")
    assert here.run_location("s3://ours/runs/one") == "s3://ours/runs/one"
    with pytest.raises(RunError, match="outside of the roots"):
        here.run_location("s3://ours/other/one")


def test_a_submitter_with_roots_submits_nothing_outside_of_them(store: Path) -> None:
    PlacesHere().confine("s3://bucket/runs/one")
    PlacesHere(roots=(str(store),)).confine(str(store / "runs" / "new"))
    with pytest.raises(RunError, match="outside of the roots"):
        PlacesHere(roots=(str(store),)).confine("/tmp/one")


def test_the_settings_are_read_with_urls_in_them() -> None:
    assert read_roots("/data/runs:s3://bucket/runs:/more/") == ("/data/runs", "s3://bucket/runs", "/more")
    assert read_roots("") == ()
    assert read_path_map("/mnt/a=/data/a:s3://b/x=/mnt/x") == (("/mnt/a", "/data/a"), ("s3://b/x", "/mnt/x"))
    assert read_path_map("/mnt=gs://b/x") == (("/mnt", "gs://b/x"),)


@pytest.mark.parametrize("text", ["runs", "/a:../b", "file:///a", "s3://"])
def test_roots_that_are_none_are_refused_with_the_reason(text: str) -> None:
    with pytest.raises(RequestError, match="roots"):
        read_roots(text)


@pytest.mark.parametrize("text", ["/a", "/a=b", "=/a", "/a=/b:/c"])
def test_a_map_that_is_none_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(RequestError, match="path_map"):
        read_path_map(text)


pieces = st.sampled_from(["..", ".", "a", "b", "", "~", "etc", "runs", "one"])


@given(
    st.lists(pieces, max_size=6).map("/".join),
    st.sampled_from(["/", "", "/store/", "s3://b/", "s3://b/runs/"]),
)
def test_whatever_is_written_nothing_outside_of_the_roots_is_reached(path: str, start: str) -> None:
    here = PlacesHere(roots=("/store/runs", "s3://b/runs"), path_map=(("/store", "/store/runs"),))
    try:
        location = here.run_location(start + path)
    except RunError:
        return
    assert f"{location}/".startswith(("/store/runs/", "s3://b/runs/"))
    assert ".." not in location.split("/")
