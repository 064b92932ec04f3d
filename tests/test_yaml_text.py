"""Whatever a text says, it is plain data or one `NotYaml` that says where and why."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuroscan_farm.yaml_text import NotYaml, read_yaml

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_what_is_sound_is_read_as_it_was_written(data: object) -> None:
    assert read_yaml(yaml.safe_dump(data)) == data


@given(st.text(st.sampled_from("[]{}:,-&*!'\"#|>%?@ \n\tab01.~<=\x00\x85é"), max_size=60))
def test_any_text_is_plain_data_or_not_yaml(text: str) -> None:
    why: NotYaml | None = None
    try:
        read_yaml(text)
    except NotYaml as error:
        why = error
    if why is not None:
        assert str(why)
        assert "\n" not in str(why)
        assert (why.line is None) == (why.column is None) == (why.place == "")


def test_where_a_text_is_wrong_is_said() -> None:
    with pytest.raises(NotYaml) as caught:
        read_yaml("a: 1\nb: [")
    assert (caught.value.line, caught.value.place) == (2, " at line 2, column 5")


def test_aliases_that_unfold_to_little_are_read() -> None:
    assert read_yaml("a: &a [1, 2]\nb: [*a, *a]\nc: {<<: {d: *a}}") == {
        "a": [1, 2],
        "b": [[1, 2], [1, 2]],
        "c": {"d": [1, 2]},
    }


def test_a_long_reason_is_cut() -> None:
    with pytest.raises(NotYaml) as caught:
        read_yaml("!" + "x" * 70_000)
    assert len(str(caught.value)) == 300
