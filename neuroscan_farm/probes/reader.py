"""What a probe file may say: `parse_probe` makes a probe of plain data and names every problem at once.

The form that layer-scan documents is accepted as it is; `docs/probes.md` says what each field means here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import NoReturn, cast

from neuroscan_farm.domain.probes import DIGITS, Probe, Sample, Scoring, content_sample_id
from neuroscan_farm.errors import ProbeError
from neuroscan_farm.probes.plain_data import is_unicode, show, unlike_json

PROBE_KEYS = ("name", "description", "scoring", "choices", "scoring_suffix", "samples")
SAMPLE_KEYS = (
    "id",
    "prompt",
    "scoring_suffix",
    "answer",
    "correct_answer",
    "expected_score",
    "category",
    "metadata",
)

_LABEL_KEYS = ("answer", "correct_answer")  # in order of precedence
_MAX_NAME_LENGTH = 60  # as UTF-8 still a file name on every file system


def parse_probe(data: object, *, where: str) -> Probe:
    """Make a probe of `data`, as JSON or YAML gave it; `where` begins the message if that fails.

    Raises:
        ProbeError: something is wrong; the one message lists every problem, with its sample's number, from 1.
    """
    return _Reader(where).probe(data)


class _Reader:
    """Reads one probe and notes every problem on the way; nothing is raised before all are known."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[str] = []

    def fail(self) -> NoReturn:
        if len(self.problems) == 1:
            raise ProbeError(f"{self.where}: {self.problems[0]}")
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        raise ProbeError(f"{self.where}: {len(self.problems)} problems{lines}")

    def probe(self, data: object) -> Probe:
        if not isinstance(data, Mapping):
            self.problems.append(f"found {show(data)}; accepted: a mapping with the keys name and samples")
            self.fail()
        self.keys(data, PROBE_KEYS, place="")
        name = self.name(data)
        description = self.text(data, "description", place="")
        suffix = self.text(data, "scoring_suffix", place="")
        scoring, choices = self.scoring(data)
        listed = data.get("samples")
        fold = _any_has_own_suffix(listed)
        samples = self.samples(listed, scoring=scoring, choices=choices, fold=suffix if fold else None)
        if self.problems:
            self.fail()
        return Probe(name, tuple(samples), description, scoring, choices, "" if fold else suffix)

    def keys(self, data: Mapping[object, object], accepted: tuple[str, ...], *, place: str) -> None:
        for key in data:
            if key in accepted:
                continue
            nearest = difflib.get_close_matches(str(key), accepted, n=1)
            mend = f"did you mean {nearest[0]}?" if nearest else "remove it"
            if place and not nearest:
                mend = "move it under metadata"
            self.problems.append(f"{place}unknown key {show(key)}; accepted: {', '.join(accepted)}; {mend}")

    def name(self, data: Mapping[object, object]) -> str:
        name = data.get("name")
        if not isinstance(name, str) or not name.strip():
            found = "is missing" if name is None else f"is {show(name)}"
            self.problems.append(f"name {found}; accepted: a short text; write name: my-probe")
            return ""
        # A run keeps its probes as <name>.json.
        unsafe = any(char in "/\\" or not char.isprintable() for char in name) or name.startswith(".")
        if unsafe or len(name) > _MAX_NAME_LENGTH:
            self.problems.append(
                f"name is {show(name)}; accepted: one line of up to {_MAX_NAME_LENGTH} characters "
                'without "/" and "\\" and with no "." in front, for it names a file in each run'
            )
        return name

    def text(self, data: Mapping[object, object], key: str, *, place: str) -> str:
        """Read an optional text; absent and null are the empty text."""
        value = data.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.problems.append(f"{place}{key} is {show(value)}; accepted: text; put it in quotes")
            return ""
        if not is_unicode(value):
            self.problems.append(f"{place}{key} holds half of a surrogate pair; write the whole character")
        return value

    def scoring(self, data: Mapping[object, object]) -> tuple[Scoring, tuple[str, ...]]:
        scoring, listed = data.get("scoring", "digits"), data.get("choices")
        if scoring == "choices":
            return "choices", self.choices(listed)
        if scoring != "digits":
            self.problems.append(
                f'scoring is {show(scoring)}; accepted: "digits" (answers 0 to 9) '
                'or "choices" (with a list of choices)'
            )
        elif listed is not None and not _are_digits(listed):
            self.problems.append(
                'choices are given, but scoring is "digits"; write scoring: choices, or remove them'
            )
        return "digits", DIGITS

    def choices(self, listed: object) -> tuple[str, ...]:
        if not isinstance(listed, list) or len(listed) < 2:
            found = "are missing" if listed is None else f"are {show(listed)}"
            self.problems.append(
                f'choices {found}; accepted for scoring "choices": a list of two or more texts'
            )
            return ()
        choices: list[str] = []
        for number, choice in enumerate(listed, start=1):
            if isinstance(choice, bool):
                self.problems.append(
                    f"choice {number} is {show(choice)}; accepted: text; put it in quotes "
                    "(YAML reads yes, no, on and off as true and false)"
                )
            elif isinstance(choice, int):
                choices.append(str(choice))
            elif not isinstance(choice, str) or not choice or not is_unicode(choice):
                self.problems.append(f"choice {number} is {show(choice)}; accepted: a text that is not empty")
            else:
                choices.append(choice)
        for choice in _repeated(choices):
            self.problems.append(f"choices hold {show(choice)} more than once; keep one of them")
        return tuple(choices)

    def samples(
        self, listed: object, *, scoring: Scoring, choices: tuple[str, ...], fold: str | None
    ) -> list[Sample]:
        """Read the samples; `fold` is the suffix to write into prompts that have none of their own."""
        if not isinstance(listed, list) or not listed:
            found = "are missing" if listed is None else f"are {show(listed)}"
            self.problems.append(
                f"samples {found}; accepted: a list of one or more samples, each with a prompt"
            )
            return []
        read: list[tuple[int, str | None, Sample]] = []  # number, id as given, sample
        for number, raw in enumerate(listed, start=1):
            place = f"sample {number}: "
            if not isinstance(raw, Mapping):
                self.problems.append(
                    f"{place}found {show(raw)}; accepted: a mapping with a prompt and an answer"
                )
                continue
            self.keys(raw, SAMPLE_KEYS, place=place)
            prompt = self.prompt(raw, place=place)
            own_suffix = self.text(raw, "scoring_suffix", place=place)
            if fold is not None:
                prompt += fold if raw.get("scoring_suffix") is None else own_suffix
            metadata = self.metadata(raw, place=place)
            answer = self.answer(raw, metadata, scoring=scoring, choices=choices, place=place)
            given_id = self.sample_id(raw, place=place)
            read.append(
                (number, given_id, Sample("", prompt, answer, self.category(raw, metadata, place), metadata))
            )
        self.same_twice(read)
        return _with_ids(read)

    def prompt(self, raw: Mapping[object, object], *, place: str) -> str:
        prompt = raw.get("prompt")
        if prompt is None:
            self.problems.append(f"{place}prompt is missing; accepted: the text of the question; add prompt")
        elif not isinstance(prompt, str) or not prompt.strip():
            self.problems.append(
                f"{place}prompt is {show(prompt)}; accepted: text that is not empty; write the question"
            )
        else:
            return self.text(raw, "prompt", place=place)
        return ""

    def sample_id(self, raw: Mapping[object, object], *, place: str) -> str | None:
        given = raw.get("id")
        if isinstance(given, int) and not isinstance(given, bool):
            return str(given)
        if given is None or (isinstance(given, str) and given.strip() and is_unicode(given)):
            return given
        self.problems.append(
            f"{place}id is {show(given)}; accepted: a text that is not empty; write one or remove it"
        )
        return None

    def category(self, raw: Mapping[object, object], metadata: Mapping[str, object], place: str) -> str:
        if raw.get("category") is not None:
            return self.text(raw, "category", place=place)
        in_metadata = metadata.get("category")  # where layer-scan's form has it
        return in_metadata if isinstance(in_metadata, str) else ""

    def metadata(self, raw: Mapping[object, object], *, place: str) -> dict[str, object]:
        given = raw.get("metadata")
        if given is None:
            return {}
        if not isinstance(given, Mapping):
            self.problems.append(
                f"{place}metadata is {show(given)}; accepted: a mapping; write metadata: {{note: ...}}"
            )
            return {}
        try:
            found = unlike_json(given, path="metadata")
        except RecursionError:
            found = "metadata is nested too deeply; accepted: few levels"
        if found:
            self.problems.append(f"{place}{found}")
            return {}
        return dict(cast("Mapping[str, object]", given))

    def answer(
        self,
        raw: Mapping[object, object],
        metadata: dict[str, object],
        *,
        scoring: Scoring,
        choices: tuple[str, ...],
        place: str,
    ) -> str | None:
        """Find the right answer of a sample.

        `answer` and `correct_answer` say what is right. layer-scan's `expected_score` is a target: it is the
        right answer only where nothing else is and it names a choice; otherwise it is kept in the metadata.
        """
        noted = len(self.problems)
        labels: dict[str, str] = {}
        for key in _LABEL_KEYS:
            if raw.get(key) is not None:
                label = _label(raw[key], choices, strip=scoring == "digits")
                if label is None:
                    self.not_a_choice(key, raw[key], scoring=scoring, choices=choices, place=place)
                else:
                    labels[key] = label
        if len(set(labels.values())) > 1:
            self.problems.append(
                f"{place}answer is {show(labels['answer'])} "
                f"but correct_answer is {show(labels['correct_answer'])}; remove the wrong one"
            )
        answer = next(iter(labels.values()), None)
        score = raw.get("expected_score")
        if score is not None:
            scored = _label(score, choices, strip=scoring == "digits")
            is_target = scored is None and _is_target(score, labelled=answer is not None)
            if scored is None and not is_target:
                self.not_a_choice("expected_score", score, scoring=scoring, choices=choices, place=place)
            elif answer is None:
                answer = scored
            if is_target or scored != answer:
                metadata.setdefault("expected_score", score)
        if answer is None and scoring == "choices" and choices and len(self.problems) == noted:
            self.problems.append(f"{place}answer is missing; accepted: {_one_of(choices)}; add answer")
        return answer

    def not_a_choice(
        self, key: str, found: object, *, scoring: Scoring, choices: tuple[str, ...], place: str
    ) -> None:
        if not choices:  # already a problem of its own; with it mended this may be right
            return
        accepted = "one digit, 0 to 9" if scoring == "digits" else _one_of(choices)
        mend = f"correct {key}"
        if isinstance(found, bool) and scoring == "choices":
            mend = "put it in quotes (YAML reads yes, no, on and off as true and false)"
        elif isinstance(found, str):
            nearest = [c for c in choices if c.strip() == found.strip()] or difflib.get_close_matches(
                found, choices, n=1
            )
            mend = f"did you mean {show(nearest[0])}?" if nearest else mend
        self.problems.append(f"{place}{key} is {show(found)}; accepted: {accepted}; {mend}")

    def same_twice(self, read: list[tuple[int, str | None, Sample]]) -> None:
        first_with_id: dict[str, int] = {}
        first_answer: dict[str, tuple[int, str]] = {}
        for number, given_id, sample in read:
            if given_id is not None:
                first = first_with_id.setdefault(given_id, number)
                if first != number:
                    self.problems.append(
                        f"sample {number}: id {show(given_id)} is that of sample {first}; give each its own"
                    )
            if sample.answer is not None and sample.prompt:
                first, answer = first_answer.setdefault(sample.prompt, (number, sample.answer))
                if answer != sample.answer:
                    self.problems.append(
                        f"sample {number}: the same prompt as sample {first}, but the answer is "
                        f"{show(sample.answer)} and there {show(answer)}; correct one or remove it"
                    )


def _with_ids(read: Iterable[tuple[int, str | None, Sample]]) -> list[Sample]:
    """Give every sample its id: its own, else one made of its content, with -2, -3 ... if taken."""
    read = list(read)
    taken = {given_id for _, given_id, _ in read if given_id is not None}
    samples = []
    for _, given_id, sample in read:
        sample_id = given_id
        if sample_id is None:
            content_id = sample_id = content_sample_id(sample.prompt, sample.answer)
            copy = 2
            while sample_id in taken:
                sample_id = f"{content_id}-{copy}"
                copy += 1
            taken.add(sample_id)
        samples.append(Sample(sample_id, sample.prompt, sample.answer, sample.category, sample.metadata))
    return samples


def _label(value: object, choices: tuple[str, ...], *, strip: bool) -> str | None:
    """Return the choice that `value` names, or None."""
    spellings: list[str] = []
    if isinstance(value, str):
        spellings = [value.strip() if strip else value]
    elif isinstance(value, float):
        spellings = [repr(value), str(int(value))] if value.is_integer() else [repr(value)]
    elif isinstance(value, int) and not isinstance(value, bool):
        spellings = [str(value)]
    return next((spelling for spelling in spellings if spelling in choices), None)


def _is_target(score: object, *, labelled: bool) -> bool:
    """Whether `score` is a number that may stand in `expected_score` though it names no choice.

    Beside a right answer it may be any; alone only one between two digits, such as 6.5: a 12 is a slip.
    """
    if isinstance(score, bool) or not isinstance(score, int | float):
        return False
    if isinstance(score, float) and not math.isfinite(score):  # an integer may be too large to ask this of it
        return False
    return labelled or 0 < score < 9


def _any_has_own_suffix(listed: object) -> bool:
    """Whether a sample has a suffix of its own, as in layer-scan's form.

    What is asked is prompt + suffix either way, so all suffixes of such a probe are folded into the prompts,
    and no reader of a probe has to know of two kinds.
    """
    if not isinstance(listed, list):
        return False
    return any(isinstance(raw, Mapping) and raw.get("scoring_suffix") is not None for raw in listed)


def _are_digits(listed: object) -> bool:
    return isinstance(listed, list) and [str(choice) for choice in listed] == list(DIGITS)


def _repeated(texts: list[str]) -> list[str]:
    return [text for text in dict.fromkeys(texts) if texts.count(text) > 1]


def _one_of(choices: tuple[str, ...]) -> str:
    return "one of " + ", ".join(show(choice) for choice in choices)
