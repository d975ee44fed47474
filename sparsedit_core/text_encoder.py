"""Captions by a T5 encoder from a local folder, as PixArt was trained with; needs the extra ``text``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch

from .conditions import Captions
from .config import ALPHA_TOKENS
from .extras import imported

_BLOCK = 1 << 22


class TextEncoder:
    """Texts to the last hidden states of a T5 encoder, those of padding not counted.

    ``folder`` holds the encoder and its tokenizer as transformers saves them, or both as ``text_encoder`` and
    ``tokenizer`` as diffusers' pipelines do. Nothing is downloaded. Longer texts are cut to ``length`` tokens: 120 in
    PixArt-alpha, 300 in Sigma. ``width`` is that of the features that are wanted, ``None`` for any. Texts are put in
    lower case as PixArt's training did. ``FileNotFoundError`` or ``ValueError`` for a folder that holds no such thing,
    ``ValueError`` where transformers is missing.
    """

    LENGTH: ClassVar[int] = ALPHA_TOKENS

    def __init__(
        self, folder: Path, *, length: int = LENGTH, width: int | None = None, device: str = "cpu"
    ) -> None:
        if length < 1:
            raise ValueError(f"captions are cut to {length} tokens; give 1 or more")
        self.folder, self.length, self.device = folder, length, device
        self._weights, self._words = _folders(folder)
        transformers = imported("transformers", "text")
        try:
            self.width = int(transformers.T5Config.from_pretrained(self._weights, local_files_only=True).d_model)
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(self._words, local_files_only=True)
            if width in (None, self.width):  # else the weights, which can be 19 GB, need not be read
                self._model: Any = transformers.T5EncoderModel.from_pretrained(self._weights, local_files_only=True)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"{folder} holds no T5 encoder with its tokenizer ({reason}); give a folder that transformers or a "
                "diffusers pipeline saved"
            ) from error
        if width not in (None, self.width):
            raise ValueError(
                f"{folder} gives features of width {self.width}, the model takes {width}; give the encoder that it was "
                "trained with"
            )
        self._model.to(device, torch.float32).eval()

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> Captions:
        """Captions (B, L, width) float32 on the CPU, L the longest of these texts in tokens."""
        given = self._tokenizer(
            [text.lower().strip() for text in texts],
            max_length=self.length,
            padding="longest",
            truncation=True,
            return_tensors="pt",
        )
        mask = given.attention_mask.to(self.device)
        features = self._model(input_ids=given.input_ids.to(self.device), attention_mask=mask).last_hidden_state
        return Captions(features.float().cpu(), mask.cpu() != 0)

    def checksum(self) -> str:
        """SHA-256 over the files of the encoder and its tokenizer."""
        digest = hashlib.sha256()
        for path in sorted({*self._weights.iterdir(), *self._words.iterdir()}):
            if path.is_file():
                digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
                with path.open("rb") as file:
                    while block := file.read(_BLOCK):
                        digest.update(block)
        return digest.hexdigest()


def _folders(folder: Path) -> tuple[Path, Path]:
    """Where the encoder is and where its tokenizer."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give that of a T5 encoder")
    if (folder / "text_encoder").is_dir():
        return folder / "text_encoder", folder / "tokenizer"
    beside = folder.parent / "tokenizer"
    return folder, beside if folder.name == "text_encoder" and beside.is_dir() else folder
