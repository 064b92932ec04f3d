"""Tokenizing probes: answers are single tokens or the mend is named; batches have equal lengths and lose nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from neuroscan_farm.demo import MODEL_DIR
from neuroscan_farm.domain.probes import Probe, Sample
from neuroscan_farm.engine.prompts import answer_token_ids, make_batches
from neuroscan_farm.errors import ModelError, ProbeError
from neuroscan_farm.probes.loader import load_probe_file


def _word_level(words: list[str], pre: object) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: k for k, word in enumerate(["[UNK]", *words])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


PROBE = Probe("p", (Sample("a", "1 + 1 =", "2"),))


def test_a_tokenizer_that_splits_digits_gets_an_error_that_names_the_mend() -> None:
    # Every digit becomes a mark, a word start and itself: three tokens.
    tokenizer = _word_level([*"0123456789", "▁", "#"], pre_tokenizers.Split("", "isolated"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("#▁")
    with pytest.raises(ProbeError, match=r"'0' \(3 tokens\).*keeps digits apart.*choices"):
        answer_token_ids(tokenizer, PROBE)


def test_a_word_start_that_is_the_same_before_every_digit_is_left_out() -> None:
    tokenizer = _word_level([*"0123456789", "▁"], pre_tokenizers.Split("", "isolated"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("▁")
    tokenizer.backend_tokenizer.decoder = decoders.Metaspace()
    assert answer_token_ids(tokenizer, PROBE) == tuple(range(1, 11))


def test_digits_that_share_a_first_token_which_is_no_word_start_are_refused() -> None:
    tokenizer = _word_level([*"0123456789", "#"], pre_tokenizers.Split("", "isolated"))
    tokenizer.backend_tokenizer.normalizer = normalizers.Prepend("#")
    with pytest.raises(ProbeError, match=r"'0' \(2 tokens\)"):
        answer_token_ids(tokenizer, PROBE)


def test_a_digit_that_the_tokenizer_does_not_know_is_an_error() -> None:
    tokenizer = _word_level([*"012345678"], pre_tokenizers.Split("", "isolated"))
    with pytest.raises(ProbeError, match="does not know the answer '9'"):
        answer_token_ids(tokenizer, PROBE)


def test_batches_have_equal_lengths_and_hold_every_sample_once(probe_file: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    probe = load_probe_file(probe_file)
    batches = make_batches(tokenizer, [probe], prompt_format="raw", batch_size=2, max_tokens=None)
    assert sorted(s.sample_id for b in batches for s in b.samples) == sorted(
        s.sample_id for s in probe.samples
    )
    for batch in batches:
        assert len(batch.samples) <= 2
        for sample, ids in zip(batch.samples, batch.token_ids.tolist(), strict=True):
            assert tokenizer(probe.text_of(sample))["input_ids"] == ids


def test_a_prompt_that_is_too_long_is_named(probe_file: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    probe = load_probe_file(probe_file)
    with pytest.raises(ProbeError, match=r"sample 8: \d+ tokens, but this model reads 8"):
        make_batches(tokenizer, [probe], prompt_format="raw", batch_size=2, max_tokens=8)


def test_the_chat_format_needs_a_chat_template_and_uses_it(probe_file: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    probe = load_probe_file(probe_file)
    with pytest.raises(ModelError, match="no chat template"):
        make_batches(tokenizer, [probe], prompt_format="chat", batch_size=2, max_tokens=None)
    tokenizer.chat_template = "{% for m in messages %}<{{ m.content }}>{% endfor %}"
    (batch, *_) = make_batches(tokenizer, [probe], prompt_format="chat", batch_size=2, max_tokens=None)
    expected = tokenizer(f"<{batch.samples[0].prompt}>", add_special_tokens=False)["input_ids"]
    assert batch.token_ids[0].tolist() == expected
