"""Libraries that only an extra of this package installs; imported where they are used, never at the top of a file."""

from __future__ import annotations

import importlib
from typing import Any


def imported(library: str, extra: str) -> Any:
    """The module ``library``; ``ValueError`` names the ``extra`` that installs it where it is missing."""
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:  # it is there, and something that it needs is not
            raise
        raise ValueError(
            f'this needs the library {library}, which is not installed; get it with: pip install "sparsedit[{extra}]"'
        ) from error
