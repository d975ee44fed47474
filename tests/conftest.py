"""Makes the helpers beside the tests importable under --import-mode=importlib; hypothesis without time limits."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

TESTS = str(Path(__file__).resolve().parent)
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

settings.register_profile("sparsedit", deadline=None)  # a busy machine is no failure
settings.load_profile("sparsedit")
