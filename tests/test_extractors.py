"""TorchScript networks as judges: what they are shown, what is taken from them, and what is refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Linear

from sparsedit_core.train.extractors import Preparation, ScriptedNetwork, judge_features, judge_logits
from sparsedit_core.train.judge import Judge, features


class Identity(nn.Module):
    """Every number of the picture as a feature."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class Mean(nn.Module):
    """Channel means (B, 3, 1, 1), as pooled networks give them."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3], keepdim=True)


class Listed(nn.Module):
    """A list of one tensor, as some Inception ports give it."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x.mean(dim=[2, 3])]


class Two(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class Map(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Changing(nn.Module):
    """As many features as there are pictures."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, : x.shape[0]]


class NotANumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3]).log()


class Fixed(nn.Module):
    """A linear layer, which takes 4 x 4 pictures alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1))


def script(path: Path, network: nn.Module) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(network).save(str(path))
    return path


def pictures(count: int = 3, side: int = 4) -> Tensor:
    return 2 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) - 1


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)])
def test_black_and_white_are_the_ends_of_the_range(low: float, high: float, tmp_path: Path) -> None:
    network = ScriptedNetwork(script(tmp_path / "n.pt", Identity()), Preparation(None, low, high))
    ends = torch.stack([torch.full((3, 4, 4), -1.0), torch.full((3, 4, 4), 1.0), torch.full((3, 4, 4), 7.0)])
    rows = network(ends)
    torch.testing.assert_close(rows[:, 0], torch.tensor([low, high, high]))


def test_pictures_have_the_shades_of_a_file(tmp_path: Path) -> None:
    network = ScriptedNetwork(script(tmp_path / "n.pt", Identity()), Preparation(None, 0, 255))
    shown = network(pictures())
    saved = ((pictures() + 1) * 127.5).round()
    assert torch.equal(shown, saved.flatten(1))
    assert torch.equal(network(saved / 127.5 - 1), shown)  # a file read again is shown the same


def test_resizing_keeps_a_plain_picture_and_its_range(tmp_path: Path) -> None:
    network = ScriptedNetwork(script(tmp_path / "n.pt", Identity()), Preparation(9, 0, 1))
    plain = torch.full((2, 3, 4, 4), 0.2)
    rows = network(plain)
    assert rows.shape == (2, 3 * 81)
    torch.testing.assert_close(rows, torch.full_like(rows, round(1.2 * 127.5) / 255), atol=1e-5, rtol=0)
    edges = network(torch.where(torch.arange(4) % 2 == 0, -1.0, 1.0).expand(1, 3, 4, 4))
    assert float(edges.min()) >= 0
    assert float(edges.max()) <= 1  # bicubic overshoots where it is let


def test_pooled_maps_and_lists_of_one_are_rows(tmp_path: Path) -> None:
    for network in (Mean(), Listed()):
        rows = ScriptedNetwork(script(tmp_path / "n.pt", network))(pictures())
        assert rows.shape == (3, 3)
        torch.testing.assert_close(rows, pictures().mean(dim=(2, 3)), atol=0.005, rtol=0)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (Two(), "gives a tuple"),
        (Map(), r"gives shape \(3, 3, 4, 4\) for 3 pictures; expected one row each"),
        (NotANumber(), "NaN or infinite values; is its input range"),
    ],
)
def test_other_outputs_are_refused(network: nn.Module, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        ScriptedNetwork(script(tmp_path / "n.pt", network))(pictures())


def test_the_number_of_features_stays(tmp_path: Path) -> None:
    network = ScriptedNetwork(script(tmp_path / "n.pt", Changing()))
    network(pictures(3))
    with pytest.raises(ValueError, match=r"gives shape \(2, 2\) for 2 pictures"):
        network(pictures(2))


def test_a_wrong_picture_size_is_one_sentence(tmp_path: Path) -> None:
    path = script(tmp_path / "n.pt", Fixed())
    with pytest.raises(ValueError, match=r"n.pt refuses pictures of shape \(3, 3, 8, 8\)") as found:
        ScriptedNetwork(path)(pictures(side=8))
    assert "\n" not in str(found.value)
    assert ScriptedNetwork(path, Preparation(4))(pictures(side=8)).shape == (3, 5)


def test_files_that_are_no_torchscript(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothere\.pt"):
        ScriptedNetwork(tmp_path / "nothere.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save(Fixed().state_dict(), tmp_path / "weights.pt")
    script(tmp_path / "whole.pt", Fixed())
    content = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(content[: len(content) // 2])
    for name in ("text.pt", "weights.pt", "half.pt"):
        with pytest.raises(ValueError, match=f"{name} is not a TorchScript file") as found:
            ScriptedNetwork(tmp_path / name)
        assert "\n" not in str(found.value)


@pytest.mark.parametrize("wrong", [{"size": 0}, {"low": 1.0, "high": 1.0}, {"high": float("nan")}])
def test_preparations_that_make_no_picture(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="found"):
        Preparation(**wrong)


def test_our_judge_is_an_extractor() -> None:
    judge = Judge().eval()
    shown = pictures(2, 64)
    rows, logits = judge_features(judge)(shown), judge_logits(judge)(shown)
    assert torch.equal(rows, features(judge, shown))
    torch.testing.assert_close(judge.head(rows).detach(), logits)
    assert not logits.requires_grad
