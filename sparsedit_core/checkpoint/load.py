"""From a file of any known layout to a checkpoint record or a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ..backbones import is_table, new_model
from ..config import ALPHA_TOKENS, SIGMA_TOKENS, BackboneConfig, DiTConfig, Family, PixArtConfig, Semantics, check_side
from ..layout import SegmentLayout
from ..tokens import sincos_table
from .detect import Format, detect, is_pixart
from .errors import CheckpointError
from .facts import Facts, facts_from_args, facts_from_config
from .files import read_file
from .formats import (
    DIFFUSERS_POSITIONS,
    LABEL_TABLE,
    Table,
    dense_roles,
    diffusers_table,
    flat_table,
    join,
    sparsedit_table,
)
from .infer import check_anchors, infer_config
from .layouts import count_blocks, flat_layout, sparsedit_layout
from .metadata import check_description, from_metadata
from .pixart import POSITIONS, diffusers_shapes, infer_pixart, pixart_table, refuse_compression
from .records import Checkpoint, Description, Loaded, default_latent
from .shapes import Shape, fit_problems, own_table, raise_problems
from .unwrap import unwrap

log = logging.getLogger("sparsedit")


def read_checkpoint(
    path: str | os.PathLike[str],
    *,
    num_heads: int | None = None,
    sparse_side: int | None = None,
    num_classes: int | None = None,
    semantics: Semantics | None = None,
    position_scale: float | None = None,
    base_size: int | tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
) -> Checkpoint:
    """Read a DiT or PixArt checkpoint, dense or sparse, of any layout in CHECKPOINTS 1.1-1.3, 1.5, 1.6 or of our own.

    The keywords say what a file does not hold. They win over the training ``args`` in a file and over a diffusers
    ``config.json`` beside it; a file of ours holds everything, and only ``sparse_side`` and ``semantics`` change it.

    ``num_heads``    needed unless the width is 1152 (16), 1024 (16), 768 (12) or 384 (6)
    ``sparse_side``  side of the sparse grid (``semantic_size``); official files without ``args`` count as 8, the value
                     of both published runs (a wrong side loads and gives wrong pictures)
    ``num_classes``  otherwise the label table's last row counts as the null class, unless it has exactly 1000 rows
    ``semantics``    "diffusers" for weights *trained* in diffusers (timestep frequencies i/127, epsilon 1e-5); weights
                     converted from the original, as the released ones, need "original", the default
    ``base_size``    token grid (side, or rows and columns) of the position table, for diffusers files, which do not
                     store it (default: config.json, else 256 pixels), and for stored tables that are not square
    ``position_scale``  interpolation of a PixArt's positions (``lewei_scale``, ``pe_interpolation``); read off a
                     stored table. Without one, it and ``base_size`` default to config.json, else to the released
                     models' (64 and 2 with size conditioning, else 32 and 1, of which only PixArt-alpha at 256 px,
                     base size 16, differs). A DiT's positions have no scale and giving one is an error
    ``dtype``        cast floating tensors; ``None`` keeps them (float8 too) mapped to the file. Position tables are
                     float32 always, and so are PixArt's tables

    Kept tensors are the file itself (memory mapped): replace such a file by renaming another over it, as
    ``save_checkpoint`` does, never by writing into it while the model lives.
    A model trained with ``attn_relat_pos='sin'`` has the keys of one without: it is refused if the ``args`` tell.
    SiT files have DiT's keys and are read as noise-predicting DiTs. Raises ``CheckpointError`` with one sentence.
    """
    if semantics not in (None, *get_args(Semantics)):
        raise CheckpointError(f"semantics is {semantics!r}; expected one of {', '.join(get_args(Semantics))}")
    if dtype is not None and not dtype.is_floating_point:
        raise CheckpointError(
            f"dtype {dtype} is not a floating type; give torch.float32, bfloat16, float16 or a float8"
        )
    grid = (base_size, base_size) if isinstance(base_size, int) else base_size
    given = Facts(
        num_heads=num_heads,
        sparse_side=sparse_side,
        num_classes=num_classes,
        base_size=grid,
        position_scale=position_scale,
    )
    try:
        return _read(Path(path), given, semantics, dtype)
    except CheckpointError as error:
        text = str(error)
        raise (error if str(path) in text else CheckpointError(f"{path}: {text}")) from error.__cause__


def load_checkpoint(
    path: str | os.PathLike[str],
    *,
    num_heads: int | None = None,
    sparse_side: int | None = None,
    num_classes: int | None = None,
    semantics: Semantics | None = None,
    position_scale: float | None = None,
    base_size: int | tuple[int, int] | None = None,
    dtype: torch.dtype | None = None,
) -> Loaded:
    """:func:`read_checkpoint`, then the model on the CPU, in eval mode, its parameters the file's own memory."""
    checkpoint = read_checkpoint(
        path,
        num_heads=num_heads,
        sparse_side=sparse_side,
        num_classes=num_classes,
        semantics=semantics,
        position_scale=position_scale,
        base_size=base_size,
        dtype=dtype,
    )
    return build_model(checkpoint)


def build_model(checkpoint: Checkpoint) -> Loaded:
    """The model of a checkpoint record; it takes over the record's tensors without copying."""
    model = new_model(checkpoint.config, device="meta")
    fixed = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    model.load_state_dict(checkpoint.state, strict=True, assign=True)
    for name in fixed:
        model.get_parameter(name).requires_grad_(False)
    described = {item.name: getattr(checkpoint, item.name) for item in fields(Description)}
    return Loaded(model=model.eval(), **described)


def describe_checkpoint(
    path: str | os.PathLike[str],
    *,
    num_heads: int | None = None,
    sparse_side: int | None = None,
    position_scale: float | None = None,
    base_size: int | None = None,
) -> Description:
    """:func:`read_checkpoint` without its tensors: of files that :func:`.files.is_mapped` no weight is read."""
    grid = None if base_size is None else (base_size, base_size)
    given = Facts(num_heads=num_heads, sparse_side=sparse_side, base_size=grid, position_scale=position_scale)
    return _described(Path(path), given, None)[1]


def _read(path: Path, given: Facts, semantics: Semantics | None, dtype: torch.dtype | None) -> Checkpoint:
    state, description, table = _described(path, given, semantics)
    tensors = _assemble(state, table, description.config, dtype)
    return Checkpoint(state=tensors, **{item.name: getattr(description, item.name) for item in fields(Description)})


def _described(path: Path, given: Facts, semantics: Semantics | None) -> tuple[dict[str, Any], Description, Table]:
    """The file's own tensors, what they are, and the table from one to the other."""
    raw = read_file(path)
    state, args = unwrap(raw.content)
    metadata = raw.metadata
    del raw  # a training checkpoint's optimizer states go now, before anything is cast
    format_name = detect(state.keys())
    family: Family = "pixart" if is_pixart(state.keys()) else "dit"
    _check_keywords(family, given, semantics)
    own = from_metadata(metadata, count_blocks(state, "blocks"))
    if own is not None and own.family != family:
        raise CheckpointError(f"the file says it is a {own.family} but its keys are those of a {family}; it is damaged")
    if own is not None:
        description = _adjust(own, given, semantics)
        table = own_table(own.config)
    else:
        config: BackboneConfig
        if family == "pixart":
            config, table = _pixart(path, state, format_name, given)
        else:
            config, table = _dit(path, state, format_name, given.over(facts_from_args(args)), semantics)
        description = Description(config=config, format=format_name, latent=default_latent(config))
    raise_problems(fit_problems(state, table, description.config), description.format)
    return state, description, table


def _check_keywords(family: Family, given: Facts, semantics: Semantics | None) -> None:
    """Raise ``CheckpointError`` for what a model of this family does not have."""
    if family == "dit" and given.position_scale is not None:
        raise CheckpointError(
            "position_scale belongs to PixArt models; the positions of a DiT have no scale: leave it out"
        )
    if family == "pixart" and (given.num_classes is not None or semantics is not None):
        name = "semantics" if given.num_classes is None else "num_classes"
        raise CheckpointError(f"{name} belongs to DiT models; this is a PixArt: leave it out")


def _dit(
    path: Path, state: Mapping[str, Any], format_name: Format, facts: Facts, semantics: Semantics | None
) -> tuple[DiTConfig, Table]:
    """Config and key table of a DiT file that is not ours."""
    layout, table, depth = _table(format_name, state)
    try:
        shapes = _flat_shapes(state, table)
        check_anchors(shapes, LABEL_TABLE)
        if format_name == "diffusers_dit":
            facts = facts.over(facts_from_config(path, shapes["x_embedder.proj.weight"][0], "dit"))
        return infer_config(shapes, depth, layout, facts, semantics or "original"), table
    except CheckpointError:
        raise_problems(fit_problems(state, table, None), format_name)  # the likelier cause, if there is any
        raise


def _pixart(
    path: Path, state: dict[str, Any], format_name: Format, facts: Facts
) -> tuple[PixArtConfig, Table]:
    """Config and key table of a PixArt file that is not ours; its position table leaves ``state``."""
    refuse_compression(state.keys())
    diffusers = format_name == "diffusers_pixart"
    depth = count_blocks(state, "transformer_blocks" if diffusers else "blocks")
    layout = None if diffusers else flat_layout(state)
    positions = state.pop(DIFFUSERS_POSITIONS if diffusers else POSITIONS, None)
    if diffusers:
        shapes = diffusers_shapes(state)
        width = shapes.get("x_embedder.proj.weight", (0,))[0]
        facts = facts.over(facts_from_config(path, width, "pixart"))
    else:
        shapes = {key: tuple(value.shape) for key, value in state.items() if isinstance(value, Tensor)}
    table_given = positions if isinstance(positions, Tensor) else None
    config = infer_pixart(shapes, table_given, depth, layout, facts)
    told = config.micro_conditioning or config.caption_tokens in (ALPHA_TOKENS, SIGMA_TOKENS)
    if config.in_channels == 4 and not told:
        log.info(
            "the file has %d text tokens, neither alpha's %d nor Sigma's %d: taken for PixArt-Sigma, latents scaled "
            "by %g",
            config.caption_tokens,
            ALPHA_TOKENS,
            SIGMA_TOKENS,
            default_latent(config).scale,
        )
    return config, pixart_table(config, diffusers)


def _table(format_name: Format, state: Mapping[str, Any]) -> tuple[SegmentLayout | None, Table, int]:
    """Layout, key table and depth of a DiT."""
    if format_name == "sparsedit":
        layout = sparsedit_layout(state)
        return layout, sparsedit_table(layout), layout.depth
    if format_name == "diffusers_dit":
        depth = count_blocks(state, "transformer_blocks")
        return None, diffusers_table(depth), depth
    depth = count_blocks(state, "blocks")
    flat = flat_layout(state)
    return flat, flat_table(flat.roles if flat else dense_roles(depth)), depth


def _flat_shapes(state: Mapping[str, Any], table: Table) -> dict[str, Shape]:
    """Shapes of the unjoined flat tensors that the file has."""
    single = {key: state.get(names[0]) for key, names in table.items() if len(names) == 1}
    return {key: tuple(value.shape) for key, value in single.items() if isinstance(value, Tensor)}


def _adjust(own: Description, given: Facts, semantics: Semantics | None) -> Description:
    """A file of ours with the caller's sparse side and semantics; other keywords may only repeat what it says."""
    config = own.config
    for name, wanted, stored in (
        ("num_heads", given.num_heads, config.num_heads),
        ("num_classes", given.num_classes, getattr(config, "num_classes", None)),
        ("base_size", given.base_size, config.grid),
        ("position_scale", given.position_scale, getattr(config, "position_scale", None)),
    ):
        if wanted is not None and wanted != stored:
            raise CheckpointError(f"{name}={wanted} was given but the file says {stored}; leave {name}= out")
    try:
        if given.sparse_side is not None and config.layout is not None:
            check_side(given.sparse_side, config.grid)
        config = replace(config, sparse_side=given.sparse_side or config.sparse_side)
        if isinstance(config, DiTConfig):
            config = replace(config, semantics=semantics or config.semantics)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    result = replace(own, config=config)
    check_description(result)
    return result


def _assemble(
    state: dict[str, Any], table: Table, config: BackboneConfig, dtype: torch.dtype | None
) -> dict[str, Tensor]:
    """Flat tensors; sources leave ``state`` one by one, so that a cast never holds two copies of the model."""
    result: dict[str, Tensor] = {}
    for key, sources in table.items():
        if sources == (DIFFUSERS_POSITIONS,) and sources[0] not in state:
            result[key] = sincos_table(config.hidden_size, config.grid)
            continue
        tensor = join({name: state.pop(name).detach() for name in sources}, sources)
        wanted = torch.float32 if is_table(key) else dtype
        result[key] = tensor if wanted is None else tensor.to(wanted)
    return result
