"""Run as a program: open a training checkpoint and print, as JSON, how the process's memory grew (Linux)."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from pathlib import Path

import torch

from sparsedit_core import DiT, DiTConfig
from sparsedit_core.checkpoint import load_checkpoint


def resident() -> dict[str, int]:
    """Resident bytes: anonymous, and pages of mapped files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    values = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
        if rest.endswith("kB")
    }
    return {"anonymous": values["RssAnon"], "file": values["RssFile"]}


def warm_up() -> None:
    """Open something small first, so that lazy imports do not count."""
    with tempfile.TemporaryDirectory() as folder:
        config = DiTConfig(input_size=(4, 4), hidden_size=32, depth=1, num_heads=4, num_classes=2)
        torch.save({"ema": DiT(config).state_dict()}, Path(folder) / "tiny.pt")
        for dtype in (None, torch.bfloat16):
            load_checkpoint(Path(folder) / "tiny.pt", num_heads=4, dtype=dtype)


class Peak(threading.Thread):
    """The largest growth seen while it runs, looked at every 2 ms."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_values = resident()
        self.growth = {"anonymous": 0, "total": 0}
        self.done = threading.Event()

    def look(self) -> None:
        now = resident()
        change = {name: now[name] - self.start_values[name] for name in now}
        self.growth["anonymous"] = max(self.growth["anonymous"], change["anonymous"])
        self.growth["total"] = max(self.growth["total"], sum(change.values()))

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.look()


def main(path: str, dtype_name: str) -> None:
    """Print the peak growth in bytes while `path` is opened, and the bytes of the model it became."""
    warm_up()
    peak = Peak()
    peak.start()
    model = load_checkpoint(path, dtype=None if dtype_name == "kept" else getattr(torch, dtype_name)).model
    peak.done.set()
    peak.join()
    peak.look()
    sizes = sum(parameter.nbytes for parameter in model.parameters())
    sys.stdout.write(json.dumps({**peak.growth, "model": sizes}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
