"""The texts in other languages: ``python tests/locales_tool.py check | update | accept LANGUAGE [KEY ...]``.

Run it where the package is installed, or with ``PYTHONPATH=.``.
``update`` writes English from the nodes' schemas, with the first ComfyUI that is found, and from the schedule editor's
words (``web/schedule_words.js``) and sentences (``sparsedit_core/said.py``). Every translation remembers the
English it was made from (``locales/fingerprints.json``), so ``check`` can name those whose English has changed since.
``accept`` says that the translations of these keys, or of all keys, are right for the English of today.

What ComfyUI 0.33's frontend reads: ``display_name``, ``description``, ``inputs.<name>.name`` and ``.tooltip``,
``outputs.<n>.tooltip``, and ``outputs.<n>.name`` where it differs from the output's type. It translates no values of
combos: these are what workflows and the command line say, so the tooltips tell their meaning instead. Of the languages
here it lists all but German, whose file waits for a frontend that does. The editor reads its own texts from
``main.json``, where names in braces stand for figures.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from comfy_env import PACK, ComfyUI, find_comfyui

from sparsedit_core.said import SENTENCES

FOLDER = PACK / "locales"
LANGUAGES = ("de", "es", "fr", "ja", "ko", "zh")  # besides English
FINGERPRINTS = FOLDER / "fingerprints.json"
NUMBER = re.compile(r"(?<![A-Za-z_\d])\d*\.?\d+(?![\d]|_[a-z])")
# words of code and of the field that are written alike in every language
FIXED = re.compile(r"MACs|FLOPs|PSNR|SSIM|LoRA|JSON|PNG|MODEL|PixArt|SparseDiT|ComfyUI|torch\.compile|%[^% ]+%")
SYNTAX = re.compile(r"[|{}@]")  # the frontend would read these as vue-i18n's own
EDITOR = "sparsedit."  # of the keys in main.json, which the frontend itself does not read
FIGURE = re.compile(r"\{\w+\}")


def texts(language: str) -> dict[str, str]:
    """Every text of a language by its key, such as ``SparseDiTReport.inputs.model.tooltip``."""
    files = (FOLDER / language / name for name in ("nodeDefs.json", "main.json"))
    return {key: text for file in files for key, text in flat(json.loads(file.read_text(encoding="utf-8"))).items()}


def editor_texts() -> dict[str, str]:
    """English of the schedule editor, from its own code."""
    code = (PACK / "web" / "schedule_words.js").read_text(encoding="utf-8")
    words = json.loads(code[code.index("const ENGLISH = ") + len("const ENGLISH = ") : code.index(";\n\nlet ")])
    return flat({"sparsedit": {"editor": words, "told": SENTENCES}})


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested texts by dotted keys."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def nested(found: dict[str, str]) -> dict[str, Any]:
    """The inverse of :func:`flat`."""
    tree: dict[str, Any] = {}
    for key, text in found.items():
        *path, last = key.split(".")
        place = tree
        for step in path:
            place = place.setdefault(step, {})
        place[last] = text
    return tree


def fingerprint(text: str) -> str:
    """A short hash of an English text."""
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def fingerprints() -> dict[str, dict[str, str]]:
    """By language and key: the English that a translation was made from."""
    return json.loads(FINGERPRINTS.read_text(encoding="utf-8")) if FINGERPRINTS.is_file() else {}


def schema_texts(comfy: ComfyUI) -> dict[str, str]:
    """English as the nodes have it, read inside a real ComfyUI."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "schemas.json"
        script = PACK / "tests" / "comfy_inprocess" / "schemas.py"
        subprocess.run(
            [comfy.python, str(script), str(comfy.root), str(result)],
            cwd=script.parent, check=True, capture_output=True,
        )  # fmt: skip
        return node_texts(json.loads(result.read_text(encoding="utf-8")))


def node_texts(infos: dict[str, Any]) -> dict[str, str]:
    """The texts in ``/object_info``'s answer by the keys of ``nodeDefs.json``."""
    found: dict[str, str] = {}
    for node, info in infos.items():
        found[f"{node}.display_name"] = info["display_name"]
        found[f"{node}.description"] = info["description"]
        for kind in ("required", "optional"):
            for name, spec in info["input"].get(kind, {}).items():
                options = spec[1] if len(spec) > 1 else {}
                found[f"{node}.inputs.{name}.name"] = options.get("display_name") or name
                found[f"{node}.inputs.{name}.tooltip"] = options["tooltip"]
        for number, (kind, name) in enumerate(zip(info["output"], info["output_name"], strict=True)):
            if name != kind:
                found[f"{node}.outputs.{number}.name"] = name
            found[f"{node}.outputs.{number}.tooltip"] = info["output_tooltips"][number]
    return found


def problems(english: dict[str, str], language: str, other: dict[str, str], made_from: dict[str, str]) -> list[str]:
    """What is wrong with a language, a line each."""
    found = [f"{language}: {key} is missing" for key in english if not other.get(key, "").strip()]
    found += [f"{language}: {key} is not in English" for key in other if key not in english]
    for key in english.keys() & other.keys():
        if made_from.get(key) != fingerprint(english[key]):
            found.append(f"{language}: {key} is stale, its English is now: {english[key]}")
        if lost := kept(english[key]) - kept(other[key]):
            found.append(f"{language}: {key} lacks {', '.join(sorted(lost))}")
        figures = FIGURE if key.startswith(EDITOR) else re.compile("(?!)")
        wanted = figures.findall(english[key])
        if Counter(wanted) != Counter(figures.findall(other[key])):
            found.append(f"{language}: {key} has other figures than {', '.join(wanted) or 'none'}")
        if SYNTAX.search(figures.sub("", other[key])):
            found.append(f"{language}: {key} has one of | {{ }} @, which the frontend does not show as they are")
    return sorted(found)


def kept(text: str) -> Counter[str]:
    """Numbers and fixed words, which a translation has as often as English."""
    numbers = (f"{float(number):g}" for number in NUMBER.findall(text))
    return Counter([*numbers, *FIXED.findall(text)])


def write(language: str, found: dict[str, str]) -> None:
    """Write a language's files."""
    for name, ours in (("nodeDefs.json", False), ("main.json", True)):
        part = {key: text for key, text in found.items() if key.startswith(EDITOR) is ours}
        write_json(FOLDER / language / name, nested(part))


def write_json(path: Path, tree: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def accept(language: str, keys: list[str]) -> None:
    """Record today's English as what these translations were made from."""
    english, seen = texts("en"), fingerprints()
    if language not in LANGUAGES or (unknown := [key for key in keys if key not in english]):
        sys.exit(f"{language}: one of {', '.join(LANGUAGES)} and keys of locales/en, not {unknown}")
    mine = seen.get(language, {}) | {key: fingerprint(english[key]) for key in keys or english}
    seen[language] = {key: mine[key] for key in english if key in mine}
    write_json(FINGERPRINTS, dict(sorted(seen.items())))


def main(command: str = "check", *arguments: str) -> None:
    """See the module's words."""
    if command == "accept":
        accept(arguments[0], list(arguments[1:]))
    comfys = find_comfyui()
    if command == "update":
        if not comfys:
            sys.exit("no ComfyUI found to read the nodes in; set COMFYUI_PATH to a checkout")
        write("en", schema_texts(comfys[0]) | editor_texts())
    english, seen = texts("en"), fingerprints()
    code = [schema_texts(comfy) | editor_texts() for comfy in comfys[:1]]
    found = [f"en: {line}" for wanted in code for line in differences(english, wanted)]
    for language in LANGUAGES:
        found += problems(english, language, texts(language), seen.get(language, {}))
    print("\n".join(found) or f"{len(english)} texts in {len(LANGUAGES) + 1} languages: complete and up to date")
    sys.exit(bool(found))


def differences(english: dict[str, str], schema: dict[str, str]) -> list[str]:
    """Keys whose text is not that of the schemas and the editor."""
    return [f"{key} is not the text in the code; run update" for key in sorted(english.keys() | schema.keys())
            if english.get(key) != schema.get(key)]  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
