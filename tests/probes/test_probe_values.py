"""Laws of the values: a probe round-trips, and its digest is made of what it asks."""

import dataclasses
import json
import pickle

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroscan_farm.domain.probes import DIGITS, Probe, Sample, content_sample_id
from neuroscan_farm.errors import ProbeError
from neuroscan_farm.probes.loader import load_probe_file, parse_probe

law = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)  # machines may be busy
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
prompts = text.filter(str.strip)
names = st.text(
    st.characters(categories=["L", "N"], include_characters=" -_."), min_size=1, max_size=20
).filter(lambda name: name.strip() and not name.startswith("."))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def probes(draw) -> Probe:
    scoring = draw(st.sampled_from(["digits", "choices"]))
    choices = DIGITS
    if scoring == "choices":
        choices = tuple(draw(st.lists(text.filter(bool), min_size=2, max_size=5, unique=True)))
    answers = st.sampled_from(choices) if scoring == "choices" else st.none() | st.sampled_from(choices)
    sample_ids = draw(st.lists(prompts, min_size=1, max_size=4, unique=True))
    asked = draw(st.lists(prompts, min_size=len(sample_ids), max_size=len(sample_ids), unique=True))
    metadata = st.dictionaries(text, json_values, max_size=3)
    samples = tuple(
        Sample(sample_id, prompt, draw(answers), draw(text), draw(metadata))
        for sample_id, prompt in zip(sample_ids, asked, strict=True)
    )
    return Probe(draw(names), samples, draw(text), scoring, choices, draw(text))


@law
@given(probes())
def test_loading_what_was_dumped_gives_an_equal_probe(probe):
    loaded = parse_probe(json.loads(json.dumps(probe.to_json_dict())), where="law")
    assert loaded == probe
    assert loaded.digest == probe.digest


@law
@given(probes())
def test_a_probe_travels_between_processes(probe):
    assert pickle.loads(pickle.dumps(probe)) == probe


def test_a_dumped_probe_is_read_back_from_a_json_and_from_a_yaml_file(tmp_path):
    probe = a_probe(description="two\nlines", scoring_suffix="\nA: ")
    (tmp_path / "p.json").write_text(json.dumps(probe.to_json_dict()), encoding="utf-8")
    (tmp_path / "p.yml").write_text(yaml.safe_dump(probe.to_json_dict()), encoding="utf-8")
    assert load_probe_file(tmp_path / "p.json") == probe
    assert load_probe_file(str(tmp_path / "p.yml")) == probe


def a_probe(**changes) -> Probe:
    samples = (Sample("a", "1 + 1 =", "2", "sums", {"note": "x"}), Sample("b", "2 + 2 =", "4"))
    return dataclasses.replace(Probe("tiny", samples), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"scoring_suffix": " "},
        {"samples": a_probe().samples[:1]},
        {"samples": a_probe().samples[::-1]},
        {"samples": (Sample("a", "1 + 1 =", "3"), Sample("b", "2 + 2 =", "4"))},
        {"samples": (Sample("a", "1 + 1 =", None), Sample("b", "2 + 2 =", "4"))},
        {"samples": (Sample("c", "1 + 1 =", "2"), Sample("b", "2 + 2 =", "4"))},
        {"scoring": "choices", "choices": ("2", "4")},
    ],
)
def test_the_digest_changes_with_what_is_measured(changes):
    assert a_probe(**changes).digest != a_probe().digest


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"description": "other"},
        {"samples": (Sample("a", "1 + 1 =", "2", "else", {"note": "y"}), Sample("b", "2 + 2 =", "4"))},
    ],
)
def test_the_digest_does_not_change_with_what_only_people_read(changes):
    assert a_probe(**changes).digest == a_probe().digest


def test_digest_and_content_ids_are_pinned_because_runs_resume_by_them():
    assert a_probe().digest == "4b3edc70d8e38321"
    assert content_sample_id("1 + 1 =", "2") == "ad37407f86a7"
    assert content_sample_id("1 + 1 =", None) != content_sample_id("1 + 1 =", "")


@pytest.mark.parametrize(
    ("choices", "values"),
    [
        (("-1", "+2.5", "10"), (-1.0, 2.5, 10.0)),
        (("yes", "no"), None),
        (("1", "two"), None),
        (("nan", "1"), None),
        (("inf", "1"), None),
        (("1_0", "1"), None),
        ((" 1", "1"), None),
        (("٣", "1"), None),
        (("1", "9" * 400), None),
    ],
)
def test_choices_have_values_only_where_all_are_finite_numerals(choices, values):
    sample = Sample("a", "which?", choices[0])
    assert Probe("p", (sample,), scoring="choices", choices=choices).values == values


def test_digits_have_the_values_0_to_9():
    assert a_probe().values == tuple(map(float, range(10)))


def test_samples_without_an_answer_are_named():
    nameless = Sample("c", "3 + 3 =")
    probe = a_probe(samples=(*a_probe().samples, nameless))
    assert a_probe().is_labelled
    assert not probe.is_labelled
    assert probe.unlabelled() == (nameless,)


def test_the_text_of_a_sample_is_prompt_and_suffix():
    probe = a_probe(scoring_suffix=" answer=")
    assert probe.text_of(probe.samples[0]) == "1 + 1 = answer="


def test_categories_come_once_in_order_without_the_empty_one():
    samples = tuple(Sample(str(n), f"q{n}", "1", cat) for n, cat in enumerate(["b", "", "a", "b"]))
    assert a_probe(samples=samples).categories() == ("b", "a")


def test_values_can_be_keys():
    assert len({a_probe(), a_probe()}) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": ()}, "no samples"),
        ({"samples": (Sample("a", "q", "1"), Sample("a", "r", "1"))}, "id 'a'"),
        ({"samples": (Sample("a", "q", "x"),)}, "sample 1: answer is 'x'"),
        ({"choices": ("2", "4")}, "scoring"),
        ({"scoring": "choices", "choices": ("4",)}, "two or more"),
        ({"scoring": "choices", "choices": ("2", "4", "4")}, "different"),
    ],
)
def test_a_probe_made_in_code_cannot_break_what_all_rely_on(changes, said):
    with pytest.raises(ProbeError, match=said):
        a_probe(**changes)
