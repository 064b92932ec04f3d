"""What the loader accepts, and what it says about the rest."""

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neuroscan_farm.errors import ProbeError
from neuroscan_farm.probes.loader import load_probe_file, parse_probe
from neuroscan_farm.probes.reader import PROBE_KEYS, SAMPLE_KEYS


def probe_of(*samples, **top):
    return parse_probe({"name": "p", "samples": list(samples), **top}, where="p.yaml")


def problems(data) -> list[str]:
    """The problems of `data`, one each, without the place in front."""
    with pytest.raises(ProbeError) as caught:
        parse_probe(data, where="p.yaml")
    message = str(caught.value)
    assert message.startswith("p.yaml: ")
    first, *others = message.removeprefix("p.yaml: ").split("\n")
    if not others:
        return [first]
    assert first == f"{len(others)} problems"
    return [line.removeprefix("  ") for line in others]


def sample_problem(**sample) -> str:
    (problem,) = problems({"name": "p", "samples": [{"prompt": "q", **sample}]})
    assert problem.startswith("sample 1: ")
    return problem.removeprefix("sample 1: ")


def answer_of(**sample) -> str | None:
    return probe_of({"prompt": "q", **sample}).samples[0].answer


# ---------------------------------------------------------------- layer-scan's form


def test_the_form_that_layer_scan_documents_is_accepted_as_it_is():
    probe = parse_probe(
        {
            "name": "my_probe",
            "description": "What it measures",
            "scoring": "digits",
            "samples": [
                {"prompt": "Rate: ", "expected_score": 7.0, "metadata": {"category": "rating"}},
                {"prompt": "Rate this: ", "scoring_suffix": "=", "correct_answer": 3, "metadata": None},
            ],
        },
        where="p.json",
    )
    rated, labelled = probe.samples
    assert (rated.answer, rated.category, rated.metadata) == ("7", "rating", {"category": "rating"})
    assert (labelled.answer, labelled.category, labelled.metadata) == ("3", "", {})
    assert [probe.text_of(sample) for sample in probe.samples] == ["Rate: ", "Rate this: ="]


def test_name_and_samples_are_enough():
    probe = parse_probe({"name": "p", "samples": [{"prompt": "1 + 1 ="}]}, where="p.json")
    assert probe.scoring == "digits"
    assert probe.description == ""
    assert probe.samples[0].answer is None


def test_a_suffix_of_the_probe_holds_for_samples_without_their_own():
    probe = probe_of({"prompt": "a"}, {"prompt": "b", "scoring_suffix": ""}, scoring_suffix="!")
    assert [probe.text_of(sample) for sample in probe.samples] == ["a!", "b"]
    assert probe_of({"prompt": "a"}, scoring_suffix="!").scoring_suffix == "!"


@pytest.mark.parametrize("spelled", [7, 7.0, "7", " 7 "])
@pytest.mark.parametrize("key", ["answer", "correct_answer", "expected_score"])
def test_an_answer_may_be_a_number_or_a_text(key, spelled):
    assert answer_of(**{key: spelled}) == "7"


def test_answer_goes_before_correct_answer_before_expected_score():
    assert answer_of(answer=1, correct_answer=1, expected_score=2.0) == "1"
    assert answer_of(correct_answer=1, expected_score=2.0) == "1"
    assert answer_of(answer=None, correct_answer=None, expected_score=0) == "0"


def test_a_target_score_between_two_digits_is_kept_and_labels_nothing():
    sample = probe_of({"prompt": "q", "expected_score": 6.5, "metadata": {"note": "x"}}).samples[0]
    assert sample.answer is None
    assert sample.metadata == {"note": "x", "expected_score": 6.5}


def test_a_target_score_that_differs_from_the_answer_is_kept_beside_it():
    assert probe_of({"prompt": "q", "answer": 1, "expected_score": 70.0}).samples[0].metadata == {
        "expected_score": 70.0
    }
    assert probe_of({"prompt": "q", "answer": 1, "expected_score": 0.0}).samples[0].metadata == {
        "expected_score": 0.0
    }
    assert probe_of({"prompt": "q", "answer": 1, "expected_score": 1.0}).samples[0].metadata == {}


def test_the_metadata_given_is_not_changed():
    given = {"note": "x"}
    probe_of({"prompt": "q", "expected_score": 6.5, "metadata": given})
    assert given == {"note": "x"}


# ---------------------------------------------------------------- ids, categories, choices


def test_a_sample_without_an_id_gets_one_of_its_content():
    first, second = probe_of({"prompt": "q", "answer": 1}, {"prompt": "r", "answer": 1}).samples
    assert len(first.sample_id) == 12
    assert first.sample_id != second.sample_id
    assert probe_of({"prompt": "r", "answer": 1}).samples[0].sample_id == second.sample_id


def test_exact_repeats_are_kept_under_ids_of_their_own():
    repeat = {"prompt": "q", "answer": 1}
    content_id = probe_of(repeat).samples[0].sample_id
    ids = [sample.sample_id for sample in probe_of(repeat, repeat, repeat).samples]
    assert ids == [content_id, f"{content_id}-2", f"{content_id}-3"]
    taken = probe_of(repeat, repeat, {"prompt": "r", "id": f"{content_id}-2"}).samples
    assert [sample.sample_id for sample in taken] == [content_id, f"{content_id}-3", f"{content_id}-2"]


def test_an_id_may_be_a_whole_number():
    assert probe_of({"prompt": "q", "id": 7}).samples[0].sample_id == "7"


def test_a_category_goes_before_that_of_the_metadata():
    assert (
        probe_of({"prompt": "q", "category": "a", "metadata": {"category": "b"}}).samples[0].category == "a"
    )
    assert probe_of({"prompt": "q", "metadata": {"category": 3}}).samples[0].category == ""


def test_choices_are_scored_as_written():
    probe = probe_of({"prompt": "q", "answer": " no"}, scoring="choices", choices=[" yes", " no"])
    assert probe.choices == (" yes", " no")
    assert probe.samples[0].answer == " no"
    assert probe.values is None


def test_choices_that_are_numerals_have_values():
    probe = probe_of({"prompt": "q", "answer": 2.5}, scoring="choices", choices=[1, "2.5"])
    assert probe.values == (1.0, 2.5)
    assert probe.samples[0].answer == "2.5"


def test_the_choices_of_digits_may_be_written_out():
    assert probe_of({"prompt": "q"}, choices=list(range(10))).scoring == "digits"


# ---------------------------------------------------------------- problems


def test_every_problem_is_listed_at_once_with_its_sample_number():
    found = problems(
        {
            "nmae": "p",
            "samples": [
                {"prompt": "fine", "answer": 1},
                {"promt": "q", "answer": 12},
                "just text",
                {"prompt": " ", "metadata": []},
            ],
        }
    )
    assert [problem.partition(":")[0] for problem in found if problem.startswith("sample")] == [
        "sample 2",
        "sample 2",
        "sample 2",
        "sample 3",
        "sample 4",
        "sample 4",
    ]
    assert found[0].startswith('unknown key "nmae"')
    assert found[0].endswith("did you mean name?")
    assert found[1] == "name is missing; accepted: a short text; write name: my-probe"
    assert 'sample 2: unknown key "promt"' in found[2]
    assert found[2].endswith("did you mean prompt?")


def test_one_problem_stands_in_one_line():
    with pytest.raises(ProbeError) as caught:
        probe_of({"prompt": "q", "answer": 12})
    assert str(caught.value) == "p.yaml: sample 1: answer is 12; accepted: one digit, 0 to 9; correct answer"


@pytest.mark.parametrize("data", [None, [], "text", 3, [{"prompt": "q"}]])
def test_what_is_no_mapping_is_no_probe(data):
    (problem,) = problems(data)
    assert problem.endswith("accepted: a mapping with the keys name and samples")


@pytest.mark.parametrize("samples", [None, [], {}, "q", {"prompt": "q"}])
def test_samples_are_a_list_of_at_least_one(samples):
    (problem,) = problems({"name": "p", "samples": samples})
    assert problem.startswith("samples ")
    assert "one or more" in problem


@pytest.mark.parametrize("name", ["", " ", None, 3, ["p"], "a/b", "a\\b", "a\nb", "..", ".hidden", "n" * 61])
def test_a_name_is_one_line_that_can_name_a_file(name):
    (problem,) = problems({"name": name, "samples": [{"prompt": "q"}]})
    assert problem.startswith("name is ")


@pytest.mark.parametrize("prompt", [None, "", " \n", 3, True, ["q"], {"q": 1}, math.nan])
def test_a_prompt_is_a_text_that_is_not_empty(prompt):
    assert sample_problem(prompt=prompt).startswith("prompt is ")


@pytest.mark.parametrize(
    "found", [10, -1, 7.5, 1e300, math.nan, math.inf, True, "x", "10", "7.0", "", "٣", [1], {}, 10**400]
)
@pytest.mark.parametrize("key", ["answer", "correct_answer"])
def test_an_answer_to_a_digits_probe_is_one_digit(key, found):
    problem = sample_problem(**{key: found})
    assert problem.startswith(f"{key} is ")
    assert "accepted: one digit, 0 to 9" in problem


@pytest.mark.parametrize("found", [10, -1, 9.5, -0.5, math.nan, math.inf, -math.inf, True, "x", "6.5", [1]])
def test_a_target_score_alone_lies_between_0_and_9(found):
    assert sample_problem(expected_score=found).startswith("expected_score is ")


@pytest.mark.parametrize("found", [math.nan, math.inf, True, "x", [1]])
def test_a_target_score_beside_an_answer_is_still_a_number(found):
    assert sample_problem(answer=1, expected_score=found).startswith("expected_score is ")


def test_two_labels_that_disagree_are_a_problem():
    assert (
        sample_problem(answer=1, correct_answer=2)
        == 'answer is "1" but correct_answer is "2"; remove the wrong one'
    )


def test_an_unknown_key_of_a_sample_near_to_none_belongs_under_metadata():
    assert sample_problem(zzz=1).endswith("move it under metadata")
    assert sample_problem(**{"expected_scor": 1}).endswith("did you mean expected_score?")


def test_a_key_that_is_no_text_is_an_unknown_key():
    (problem,) = problems({"name": "p", "samples": [{"prompt": "q"}], 3: "x"})
    assert problem.startswith("unknown key 3;")


@pytest.mark.parametrize("key", ["description", "scoring_suffix"])
def test_texts_of_the_probe_are_texts(key):
    (problem,) = problems({"name": "p", "samples": [{"prompt": "q"}], key: 3})
    assert problem == f"{key} is 3; accepted: text; put it in quotes"


@pytest.mark.parametrize("key", ["category", "scoring_suffix"])
def test_texts_of_a_sample_are_texts(key):
    assert sample_problem(**{key: 3}) == f"{key} is 3; accepted: text; put it in quotes"


@pytest.mark.parametrize("given", ["", " ", 1.5, True, ["a"]])
def test_an_id_is_a_text_that_is_not_empty(given):
    assert sample_problem(id=given).startswith("id is ")


def test_two_samples_with_one_id_are_a_problem():
    (problem,) = problems({"name": "p", "samples": [{"prompt": "q", "id": 1}, {"prompt": "r", "id": "1"}]})
    assert problem == 'sample 2: id "1" is that of sample 1; give each its own'


def test_one_prompt_with_two_answers_is_a_problem():
    (problem,) = problems(
        {"name": "p", "samples": [{"prompt": "q", "answer": 1}, {"prompt": "q", "answer": 2}]}
    )
    assert problem.startswith("sample 2: the same prompt as sample 1, but the answer is")


def test_one_prompt_under_two_suffixes_is_two_questions():
    samples = [
        {"prompt": "q", "scoring_suffix": "a", "answer": 1},
        {"prompt": "q", "scoring_suffix": "b", "answer": 2},
    ]
    assert len(probe_of(*samples).samples) == 2


def test_one_prompt_with_and_without_an_answer_is_no_contradiction():
    assert len(probe_of({"prompt": "q", "answer": 1}, {"prompt": "q"}).samples) == 2


@pytest.mark.parametrize("scoring", ["custom", "digit", 3, None, ["digits"]])
def test_scoring_is_digits_or_choices(scoring):
    (problem,) = problems({"name": "p", "samples": [{"prompt": "q"}], "scoring": scoring})
    assert problem.startswith("scoring is ")
    assert '"choices"' in problem


def test_choices_under_digits_are_a_problem():
    (problem,) = problems({"name": "p", "samples": [{"prompt": "q"}], "choices": ["a", "b"]})
    assert "write scoring: choices" in problem


@pytest.mark.parametrize("choices", [None, [], ["a"], "ab", {"a": 1}])
def test_choices_are_a_list_of_at_least_two(choices):
    (problem,) = problems(
        {"name": "p", "scoring": "choices", "choices": choices, "samples": [{"prompt": "q", "answer": "a"}]}
    )
    assert problem.startswith("choices are ")
    assert "two or more" in problem


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        (["a", "b", "a"], 'choices hold "a" more than once'),
        (["a", True], "YAML reads yes, no, on and off"),
        (["a", ""], 'choice 2 is ""'),
        (["a", None], "choice 2 is null"),
        (["a", 1.5], "choice 2 is 1.5"),
        (["a", "\ud800"], "choice 2 is "),
    ],
)
def test_each_choice_is_another_text(choices, said):
    (problem,) = problems(
        {"name": "p", "scoring": "choices", "choices": choices, "samples": [{"prompt": "q", "answer": "a"}]}
    )
    assert said in problem


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("yes", 'did you mean " yes"?'),
        ("never", 'accepted: one of " yes", " no"'),
        (True, "put it in quotes"),
        (None, "answer is missing"),
    ],
)
def test_a_choices_probe_needs_an_answer_among_its_choices(answer, said):
    (problem,) = problems(
        {
            "name": "p",
            "scoring": "choices",
            "choices": [" yes", " no"],
            "samples": [{"prompt": "q", "answer": answer}],
        }
    )
    assert problem.startswith("sample 1: answer is ")
    assert said in problem


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ([], "metadata is []; accepted: a mapping"),
        ("x", "accepted: a mapping"),
        ({"a": [1, math.nan]}, "metadata.a[1] is NaN; accepted: finite numbers"),
        ({"a": {"b": math.inf}}, "metadata.a.b is Infinity"),
        ({3: "x"}, "metadata has the key 3; accepted: text"),
        ({"a": {1, 2}}, "metadata.a is a set; accepted: what JSON can say"),
        ({"a": "\ud800"}, "metadata.a holds half of a surrogate pair"),
        ({"\ud800": 1}, "metadata holds half of a surrogate pair"),
    ],
)
def test_metadata_is_what_json_can_say(metadata, said):
    assert said in sample_problem(metadata=metadata)


@pytest.mark.parametrize("key", ["prompt", "category", "scoring_suffix"])
def test_half_of_a_surrogate_pair_is_no_text(key):
    assert "half of a surrogate pair" in sample_problem(**{key: "a\ud800"})


def test_what_was_found_is_cut_to_one_short_line():
    problem = sample_problem(answer="long\n" * 1000)
    assert len(problem) < 200
    assert "\n" not in problem


law = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)  # machines may be busy
scalars = st.none() | st.booleans() | st.integers(-20, 20) | st.floats() | st.text(max_size=3)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(scalars, inner, max_size=2)
)


def mapping_of(keys, likely):
    return st.dictionaries(st.sampled_from(keys), anything | likely, max_size=len(keys))


@law
@given(
    mapping_of(
        [*PROBE_KEYS, "other"],
        st.sampled_from(["p", "digits", "choices", ["a", "b"]])
        | st.lists(mapping_of([*SAMPLE_KEYS, "other"], st.sampled_from(["q", 3, "a"])), max_size=3),
    )
)
def test_whatever_the_data_is_it_becomes_a_probe_or_an_explanation(data):
    try:
        probe = parse_probe(data, where="p.yaml")
    except ProbeError as error:
        assert str(error).startswith("p.yaml: ")  # noqa: PT017
    else:
        assert parse_probe(json.loads(json.dumps(probe.to_json_dict())), where="p.yaml") == probe


# ---------------------------------------------------------------- files


def file_error(path) -> str:
    with pytest.raises(ProbeError) as caught:
        load_probe_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value).removeprefix(f"{path}: ")


def written(tmp_path, name: str, content: str | bytes):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_file_that_is_not_there_or_no_file_is_named(tmp_path):
    assert file_error(tmp_path / "gone.json").startswith("no such file")
    (tmp_path / "folder.json").mkdir()
    assert file_error(tmp_path / "folder.json").startswith("cannot be read (")


@pytest.mark.parametrize("name", ["p.txt", "p", "p.jsonl", "p.toml"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    assert ".json, .yaml, .yml" in file_error(written(tmp_path, name, "{}"))


@pytest.mark.parametrize("name", ["p.json", "p.yaml"])
def test_a_file_that_is_not_utf_8_names_the_byte(tmp_path, name):
    assert file_error(written(tmp_path, name, b"{}\xff")).startswith("byte 3 is not UTF-8")


@pytest.mark.parametrize("name", ["p.JSON", "p.yaml", "p.yml"])
def test_a_byte_order_mark_does_no_harm(tmp_path, name):
    data = {"name": "p", "samples": [{"prompt": "é", "answer": 1}]}
    content = b"\xef\xbb\xbf" + json.dumps(data, ensure_ascii=False).encode()
    assert load_probe_file(written(tmp_path, name, content)).samples[0].prompt == "é"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"name": "p",\n "samples": [}', "not valid JSON at line 2, column 14: "),
        ("", "not valid JSON at line 1, column 1: "),
        ('{"name": "p", "name": "q"}', 'the key "name" stands twice in one object'),
        ('{"samples": [{"prompt": "q", "prompt": "r"}]}', 'the key "prompt" stands twice'),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "not valid JSON: "),
    ],
)
def test_broken_json_is_named_with_its_place(tmp_path, content, said):
    assert file_error(written(tmp_path, "p.json", content)).startswith(("the key", said))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: p\nsamples: [", "not valid YAML at line 2, column 11: "),
        ("name: p\nname: q", 'not valid YAML at line 2, column 1: the key "name" stands twice'),
        ("name: p\nsamples:\n- {prompt: q, prompt: r}", "not valid YAML at line 3, column 15: "),
        ("name: !!python/object:os.system p", "not valid YAML at line 1, column 7: "),
        ("name: p\ndescription: a\x00b", "not valid YAML at line 2, column 15: "),
        ("name: 2026-13-45", "not valid YAML: "),
        ("[" * 5000, "not valid YAML: nested too deeply"),
        ("", "found null; accepted: a mapping"),
        ("just text", 'found "just text"; accepted: a mapping'),
    ],
)
def test_broken_yaml_is_named_with_its_place(tmp_path, content, said):
    assert file_error(written(tmp_path, "p.yaml", content)).startswith(said)


def test_nan_in_a_json_file_is_a_problem_of_its_sample(tmp_path):
    path = written(tmp_path, "p.json", '{"name": "p", "samples": [{"prompt": "q", "expected_score": NaN}]}')
    assert file_error(path).startswith("sample 1: expected_score is NaN")


def test_unquoted_yes_in_yaml_is_explained(tmp_path):
    content = "name: p\nscoring: choices\nchoices: [yes, no]\nsamples: [{prompt: q, answer: 'yes'}]\n"
    assert "YAML reads yes, no, on and off" in file_error(written(tmp_path, "p.yaml", content))


def test_a_date_in_yaml_metadata_is_a_problem_and_a_quoted_one_is_not(tmp_path):
    content = "name: p\nsamples: [{prompt: q, metadata: {day: %s}}]\n"
    assert "metadata.day is a date" in file_error(written(tmp_path, "p.yaml", content % "2026-11-02"))
    assert load_probe_file(written(tmp_path, "q.yaml", content % "'2026-11-02'")).samples[0].metadata


def test_yaml_anchors_and_merges_are_read(tmp_path):
    content = (
        "name: p\nsamples:\n- &first {prompt: q, answer: 1, category: sums}\n- {<<: *first, prompt: r}\n"
    )
    second = load_probe_file(written(tmp_path, "p.yaml", content)).samples[1]
    assert (second.prompt, second.answer, second.category) == ("r", "1", "sums")


def test_metadata_that_contains_itself_is_refused(tmp_path):
    content = "name: p\nsamples: [{prompt: q, metadata: &m {again: *m}}]\n"
    assert "an alias stands inside of what it names" in file_error(written(tmp_path, "p.yaml", content))
