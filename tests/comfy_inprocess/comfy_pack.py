"""ComfyUI and the pack inside one process, the way ComfyUI itself loads packs, and small things the checks share."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

PACK_FOLDER = Path(__file__).resolve().parents[2]
PACK_NAME = "sparsedit_pack"


class Skip(Exception):
    """This version of ComfyUI lacks what the check is about."""


def start(root: str) -> None:
    """Import ComfyUI on the CPU with empty model folders, then the pack."""
    # ComfyUI's nodes.py, not this pack's nodes/, must be what `import nodes` finds
    sys.path[:] = [root, *(path for path in sys.path if Path(path or ".").resolve() != PACK_FOLDER)]
    sys.modules.pop("nodes", None)
    sys.argv = sys.argv[:1]
    import comfy.options

    comfy.options.enable_args_parsing(False)
    from comfy.cli_args import args

    args.cpu = True
    args.use_pytorch_cross_attention = True  # what GPUs use; the CPU's default reads /proc and cannot be compiled
    import folder_paths

    scratch = Path(tempfile.mkdtemp(prefix="sparsedit-comfy-"))
    folder_paths.set_output_directory(str(scratch / "output"))
    folder_paths.models_dir = str(scratch)
    for name in ("diffusion_models", "checkpoints"):
        (scratch / name).mkdir()
        folder_paths.folder_names_and_paths[name] = ([str(scratch / name)], folder_paths.supported_pt_extensions)
    load_pack()


def load_pack() -> ModuleType:
    """The pack under one name, once."""
    if PACK_NAME not in sys.modules:
        spec = importlib.util.spec_from_file_location(
            PACK_NAME, PACK_FOLDER / "__init__.py", submodule_search_locations=[str(PACK_FOLDER)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACK_NAME] = module
        spec.loader.exec_module(module)
    return sys.modules[PACK_NAME]


def pack(name: str) -> Any:
    """A module of the pack: ``pack("nodes.lora")``."""
    return importlib.import_module(f"{PACK_NAME}.{name}")


def model_folder(name: str = "diffusion_models") -> Path:
    """The empty models folder of this process."""
    import folder_paths

    return Path(folder_paths.get_folder_paths(name)[0])


def node(node_id: str) -> Any:
    """A node class of the pack."""
    return next(item for item in pack("nodes").NODES if item.define_schema().node_id == node_id)


def run(node_id: str, **inputs: Any) -> Any:
    """The first output of a node."""
    return outputs(node_id, **inputs)[0]


def outputs(node_id: str, **inputs: Any) -> tuple[Any, ...]:
    """All outputs of a node."""
    return tuple(node(node_id).execute(**inputs).result)
