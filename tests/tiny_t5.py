"""A T5 encoder of random weights and a tokenizer of a few words, saved as transformers saves them; no network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

WIDTH = 12
WORDS = ("<pad>", "</s>", "<unk>", "a", "red", "blue", "small", "star", "ring", "on", "grass")


def save_t5(folder: Path, *, seed: int = 0, width: int = WIDTH) -> Path:
    """Its folder; the test is skipped where transformers is not installed."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    config = transformers.T5Config(
        vocab_size=len(WORDS), d_model=width, d_kv=6, num_heads=2, d_ff=16, num_layers=2, num_decoder_layers=1
    )
    torch.manual_seed(seed)
    transformers.T5EncoderModel(config).save_pretrained(folder)
    return folder
