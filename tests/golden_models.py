"""Our DiT built from a fixture: the original constructor's arguments and the original weights."""

from __future__ import annotations

from typing import Any

from golden_files import Golden

from sparsedit_core.checkpoint import sparsedit_to_flat
from sparsedit_core.checkpoint.formats import sparsedit_table
from sparsedit_core.config import DiTConfig
from sparsedit_core.dit import DiT
from sparsedit_core.layout import SegmentLayout


def golden_config(constructor: dict[str, Any]) -> DiTConfig:
    """Config of a `dit_*` or `sparsedit_*` fixture, from the metadata entry `constructor`."""
    layout = None
    if "num_dumbbell" in constructor:
        generation, sparse, recovery, dense = constructor["dumbbell_group"]
        modules = ((generation, sparse, recovery, dense),) * constructor["num_dumbbell"]
        layout = SegmentLayout(constructor["num_poolingformer"], modules, constructor["num_normal_block"])
    side = constructor["input_size"]
    return DiTConfig(
        input_size=(side, side),
        patch_size=constructor["patch_size"],
        in_channels=constructor["in_channels"],
        hidden_size=constructor["hidden_size"],
        depth=constructor["depth"],
        num_heads=constructor["num_heads"],
        mlp_ratio=constructor.get("mlp_ratio", 4.0),
        num_classes=constructor["num_classes"],
        null_class=constructor.get("class_dropout_prob", 0.1) > 0,
        learn_sigma=constructor.get("learn_sigma", True),
        layout=layout,
        sparse_side=constructor.get("semantic_size", 8),
    )


def golden_model(file: Golden) -> DiT:
    """The fixture's model in eval mode, its weights under our flat names."""
    config = golden_config(file.meta["constructor"])
    model = DiT(config)
    model.load_state_dict(sparsedit_to_flat(file.state) if config.layout else file.state)
    return model.eval()


def flat_name(name: str, config: DiTConfig) -> str:
    """Our name of the tensor that the official project calls `name`."""
    if config.layout is None:
        return name
    flat = {official: key for key, (official,) in sparsedit_table(config.layout).items()}
    return flat[name]
