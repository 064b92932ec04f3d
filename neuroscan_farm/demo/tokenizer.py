"""The demo model's tokenizer: one token for each printable ASCII character, `<unk>` for any other."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, UNK, BOS, EOS = "<pad>", "<unk>", "<bos>", "<eos>"
VOCABULARY: dict[str, int] = {token: i for i, token in enumerate((PAD, UNK, BOS, EOS, *string.printable))}


def encode(text: str) -> list[int]:
    """Return the ids that the saved tokenizer gives for a text, without `<bos>`; fast, for training."""
    return [VOCABULARY.get(character, VOCABULARY[UNK]) for character in text]


def build_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer that is saved beside the weights; it puts `<bos>` before every text."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import Fuse
    from tokenizers.models import BPE
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    # A BPE without merges splits into characters, and keeps line breaks and runs of blanks as they are.
    backend = Tokenizer(BPE(vocab=VOCABULARY, merges=[], unk_token=UNK))
    backend.decoder = Fuse()
    backend.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, VOCABULARY[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        padding_side="left",
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
