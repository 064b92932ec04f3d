"""The locked split: fixed by content, the same share of each probe, and refused where it is too small."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from neuroscan_farm.domain.probes import Probe, Sample
from neuroscan_farm.errors import RequestError
from neuroscan_farm.statistics.confirm_split import check_split, held_out_samples


def probe(n: int, name: str = "p", prefix: str = "s") -> Probe:
    return Probe(name, tuple(Sample(f"{prefix}{k}", f"{k}?", answer="1") for k in range(n)))


def test_each_probe_gives_its_share() -> None:
    held = held_out_samples([probe(20), probe(50, "q", "x")], 0.3)
    assert {name: len(ids) for name, ids in held.items()} == {"p": 6, "q": 15}


def test_the_split_is_made_of_the_questions_alone() -> None:
    whole = probe(40)
    turned = Probe("renamed", tuple(reversed(whole.samples)))
    (first,), (second,) = (held_out_samples([one], 0.5).values() for one in (whole, turned))
    assert first == second
    assert held_out_samples([whole, probe(16, "q")], 0.5)["p"] == first
    assert first != frozenset(sample.sample_id for sample in whole.samples[:20])
    other_ids = Probe("p", tuple(replace(one, sample_id=f"x{one.sample_id}") for one in whole.samples))
    assert held_out_samples([other_ids], 0.5)["p"] == {f"x{sample_id}" for sample_id in first}


def test_a_larger_share_holds_out_the_same_samples_and_more() -> None:
    less, more = (held_out_samples([probe(40)], share)["p"] for share in (0.3, 0.5))
    assert less < more


@pytest.mark.parametrize("share", [0.2, 0.8])
def test_a_side_of_fewer_than_eight_is_refused_with_what_would_do(share: float) -> None:
    with pytest.raises(RequestError, match=re.escape("use --confirm 0.25 to 0.75, or more samples")):
        check_split([probe(30)], share)


def test_a_probe_that_cannot_be_split_is_refused_with_how_many_it_needs() -> None:
    said = (
        "confirm 0.5 leaves 5 of the 10 samples of probe q to choose by and 5 to confirm with; 8 are needed"
    )
    with pytest.raises(RequestError, match=re.escape(said)) as refused:
        check_split([probe(30), probe(10, "q")], 0.5)
    assert "give the probe 16 samples or more, or leave out --confirm" in str(refused.value)
    assert "probe p" not in str(refused.value)


@pytest.mark.parametrize("n", range(16, 60))
def test_the_shares_that_a_refusal_names_are_taken(n: int) -> None:
    try:
        check_split([probe(n)], 0.01)
    except RequestError as refused:
        least, most = re.findall(r"--confirm (0\.\d+)(?: to (0\.\d+))?,", str(refused))[0]
    assert least != most  # one share alone is no range
    check_split([probe(n)], float(least))
    check_split([probe(n)], float(most or least))


def repeated(different: int, times: int, **last: str) -> Probe:
    """Each question several times, in turn; the repeats under ids of their own."""
    samples = [
        Sample(f"s{k}-{copy}", f"{k}?", answer=last.get("answer", "1") if copy else "1")
        for copy in range(times)
        for k in range(different)
    ]
    return Probe("p", tuple(samples))


@pytest.mark.parametrize("answer", ["1", "2"])
@pytest.mark.parametrize(("different", "times", "share"), [(20, 2, 0.5), (30, 3, 0.3), (19, 4, 0.45)])
def test_a_question_that_stands_more_than_once_is_on_one_side(
    different: int, times: int, share: float, answer: str
) -> None:
    made = repeated(different, times, answer=answer)
    held = held_out_samples([made], share)["p"]
    text = {sample.sample_id: sample.prompt for sample in made.samples}
    assert not {text[one] for one in held} & {text[one] for one in text if one not in held}
    assert abs(len(held) - share * different * times) <= times  # the sizes stay near the share
    assert held == held_out_samples([Probe("q", tuple(reversed(made.samples)))], share)["q"]


def test_too_few_different_questions_are_refused_however_many_samples_there_are() -> None:
    with pytest.raises(RequestError, match="leaves 5 of the 10 different questions of probe p") as refused:
        check_split([repeated(10, 8)], 0.5)
    assert "give the probe 16 different questions or more" in str(refused.value)
    check_split([repeated(16, 8)], 0.5)


def test_where_one_share_alone_would_do_it_is_named_once() -> None:
    often = [Sample(f"again{copy}", "0?", answer="1") for copy in range(99)]
    with pytest.raises(RequestError) as refused:
        check_split([Probe("p", (*probe(16).samples, *often))], 0.2)
    assert "use --confirm 0.07, or more different questions" in str(refused.value)
