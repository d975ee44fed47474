"""The models that come with the package, trained by its own commands on its own procedural pictures."""

from __future__ import annotations

from pathlib import Path

BUNDLED: tuple[str, ...] = ("sparsedit", "dense", "pixart-sparsedit", "pixart-dense")
"""Names of the bundled checkpoints; ``"judge"`` is a file here too, the classifier that judges them."""

FOLDER = Path(__file__).resolve().parent


def bundled_path(name: str) -> Path:
    """The file of a bundled model; ``ValueError`` for an unknown name, ``FileNotFoundError`` if it is missing."""
    if name not in (*BUNDLED, "judge"):
        raise ValueError(f"there is no bundled model {name!r}; choose one of {', '.join(BUNDLED)}")
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise FileNotFoundError(
            f"the bundled model {name!r} is missing from this installation; install the package again"
        )
    return path


def bundled_plans() -> dict[str, Path]:
    """The plans of a token cache for the bundled models, by name: the model, steps and budget in percent."""
    return {path.stem: path for path in sorted((FOLDER / "plans").glob("*.json"))}
