"""The features of fast-DiT: two folders of one-sample ``.npy`` files, written by its ``extract_features.py``.

``imagenet256_features/N.npy`` is a latent (1, 4, 32, 32), already multiplied by 0.18215, and
``imagenet256_labels/N.npy`` its label (1,). The script calls both ``imagenet256`` whatever it was given.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...checkpoint import Latent
from .order import EpochOrder

FEATURES, LABELS = "_features", "_labels"
_PROBES = 16  # files whose content goes into the fingerprint
_FACTOR = 8  # pixels per latent of the Stable Diffusion autoencoder, the only one that the script uses

logger = logging.getLogger("sparsedit")


def feature_folders(path: Path) -> tuple[Path, Path] | None:
    """The folders of features and labels in ``path`` (or ``path`` itself and the other beside it); ``None`` if none."""
    found = sorted(entry for entry in (path, *path.iterdir()) if entry.name.endswith(FEATURES) and entry.is_dir())
    if not found:
        return None
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found)
        raise ValueError(f"{path} holds several sets of features ({names}); give one of these folders")
    features = found[0]
    labels = features.with_name(features.name.removesuffix(FEATURES) + LABELS)
    if not labels.is_dir():
        raise ValueError(f"{features} has no folder {labels.name} beside it; extract_features.py writes both")
    return features, labels


class FastDiTSource:
    """A :class:`~..source.Source` of such folders, read as they are, one small file per sample.

    Opening lists both folders and reads every label (8 s for 100,000 files that the system has cached), since nothing
    else tells the number of classes: it is the largest label and one. The fingerprint covers names, labels and the
    content of 16 of the features.
    """

    class_names = None

    def __init__(self, folder: str | os.PathLike[str], *, seed: int = 0) -> None:
        folders = feature_folders(Path(folder))
        if folders is None:
            raise FileNotFoundError(f"there is no folder *{FEATURES} in {folder}")
        self.features, labels = folders
        self._names = _matched(self.features, labels)
        logger.info("reading the labels of %d features in %s", len(self._names), self.features)
        self._labels = np.array([_label(labels / name) for name in self._names], np.int64)
        shape = _load(self.features / self._names[0]).shape
        if len(shape) != 4 or shape[0] != 1:
            raise ValueError(f"{self.features / self._names[0]} has shape {shape}, expected one sample (1, C, H, W)")
        self.latent = Latent(channels=shape[1], factor=_FACTOR)
        self.input_size: tuple[int, int] = (shape[2], shape[3])
        self.num_classes = int(self._labels.max()) + 1
        self.caption_channels, self.caption_tokens = None, 0
        self.count: int | None = len(self._names)
        self.fingerprint = self._fingerprint()
        self._order = EpochOrder(self.count, seed)

    def batch(self, first: int, size: int) -> tuple[Tensor, Tensor]:
        """Samples ``first`` .. ``first + size - 1``: (size, C, H, W) float32 as in the files, and labels (size,)."""
        indices = self._order.indices(first, size)
        samples = torch.empty(size, self.latent.channels, *self.input_size)
        for place, index in enumerate(indices.tolist()):
            samples[place] = torch.from_numpy(self._feature(index)[0])
        return samples, torch.from_numpy(self._labels[indices])

    def _feature(self, index: int) -> NDArray[np.float32]:
        path, wanted = self.features / self._names[index], (1, self.latent.channels, *self.input_size)
        found = _load(path)
        if found.shape != wanted or found.dtype.kind != "f":
            raise ValueError(f"{path} holds {found.dtype} of shape {found.shape}, expected floats of shape {wanted}")
        return found.astype(np.float32)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256("\n".join(self._names).encode("utf-8", "surrogateescape"))
        digest.update(self._labels.tobytes())
        for index in np.unique(np.linspace(0, len(self._names) - 1, _PROBES).astype(np.int64)).tolist():
            digest.update((self.features / self._names[index]).read_bytes())
        return digest.hexdigest()[:16]


def _matched(features: Path, labels: Path) -> list[str]:
    """The names in both folders; ``ValueError`` names one that is in only one of them."""
    names, others = (
        {entry.name for entry in os.scandir(folder) if entry.name.endswith(".npy")} for folder in (features, labels)
    )
    if not names:
        raise ValueError(f"{features} holds no .npy file")
    if names != others:
        alone = sorted(names ^ others)
        raise ValueError(
            f"{features} and {labels.name} do not hold the same names: {len(alone)} are in only one of them, the first "
            f"{alone[0]}; extract the features again or remove it"
        )
    return sorted(names, key=lambda name: (len(name), name))


def _label(path: Path) -> int:
    found = _load(path)
    if found.size != 1 or found.dtype.kind not in "iu" or int(found.reshape(-1)[0]) < 0:
        raise ValueError(f"{path} holds {found.dtype} of shape {found.shape}, expected one label of 0 or more")
    return int(found.reshape(-1)[0])


def _load(path: Path) -> NDArray[np.generic]:
    try:
        found: NDArray[np.generic] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, KeyError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is no readable .npy file ({reason}); extract it again") from error
    return found
