"""Files that appear complete or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside ``path`` to write to; on leaving without an error the file takes its real name.

    On an error the temporary file is removed and what ``path`` was before is untouched. The file gets the permissions
    of any new file, whatever its writer sets (safetensors allows only the owner). A symbolic link stays one: the file
    that it points to is replaced.
    """
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())  # else a power cut could leave an empty file under the real name
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
