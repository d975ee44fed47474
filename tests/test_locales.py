"""The texts in every language: none missing, left over or older than its English. See locales_tool.py."""

from __future__ import annotations

import json
import re

import pytest
from comfy_env import PACK, find_comfyui
from locales_tool import (
    EDITOR,
    FOLDER,
    LANGUAGES,
    differences,
    editor_texts,
    fingerprint,
    fingerprints,
    flat,
    nested,
    node_texts,
    problems,
    schema_texts,
    texts,
)

ENGLISH = {"A.display_name": "A node", "A.inputs.rate.tooltip": "From .5 to 2, in MACs.", "A.outputs.0.name": "sheet"}
ENGLISH["sparsedit.told.step"] = "step {step} of {steps}"
GERMAN = {"A.display_name": "Ein Node", "A.inputs.rate.tooltip": "MACs, 2 bis 0.5.", "A.outputs.0.name": "Blatt"}
GERMAN["sparsedit.told.step"] = "Schritt {step} von {steps}"
MADE_FROM = {key: fingerprint(text) for key, text in ENGLISH.items()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_is_complete_and_up_to_date(language: str) -> None:
    found = problems(texts("en"), language, texts(language), fingerprints()[language])
    assert not found, "\n".join(found)


def test_there_are_these_languages_and_no_more() -> None:
    assert {folder.name for folder in FOLDER.iterdir() if folder.is_dir()} == {"en", *LANGUAGES}
    assert set(fingerprints()) == set(LANGUAGES)


def test_every_sentence_is_translated() -> None:
    english = texts("en")
    for language in LANGUAGES:
        other = texts(language)
        same = [key for key, text in english.items() if other[key] == text and (text.endswith(".") or len(text) > 20)]
        assert not same, f"{language}: {same}"


@pytest.mark.comfy
@pytest.mark.parametrize("comfy", find_comfyui()[:1] or [None], ids=str)
def test_english_is_what_the_nodes_say(comfy: object) -> None:
    if comfy is None:
        pytest.skip("no ComfyUI found")
    english = {key: text for key, text in texts("en").items() if not key.startswith(EDITOR)}
    assert not differences(english, schema_texts(comfy))  # type: ignore[arg-type]


def test_english_is_what_the_editor_says() -> None:
    english = {key: text for key, text in texts("en").items() if key.startswith(EDITOR)}
    assert not differences(english, editor_texts())


def test_the_editor_says_what_it_has_words_for() -> None:
    files = [file for file in (PACK / "web").glob("schedule_*.js") if file.name != "schedule_words.js"]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    words = {key.rpartition(".")[2] for key in editor_texts() if key.startswith(f"{EDITOR}editor.")}
    said = set(re.findall(r'\bsay\(\s*"(\w+)"', code))
    buttons = set(re.findall(r'\bbutton\("(\w+)"', code))
    assert len(buttons) == 5
    assert words == said | buttons | {f"{name}_tip" for name in buttons}


def test_what_is_right_is_not_reported() -> None:
    assert problems(ENGLISH, "de", GERMAN, MADE_FROM) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"A.outputs.0.name": " "}, "A.outputs.0.name is missing"),
        ({"A.inputs.old.name": "alt"}, "A.inputs.old.name is not in English"),
        ({"A.inputs.rate.tooltip": "MACs, 2 bis 0.4."}, "A.inputs.rate.tooltip lacks 0.5"),
        ({"A.inputs.rate.tooltip": "2 bis 0.5."}, "A.inputs.rate.tooltip lacks MACs"),
        ({"A.display_name": "Ein | Node"}, "A.display_name has one of"),
        ({"A.display_name": "Ein {node}"}, "A.display_name has one of"),
        ({"sparsedit.told.step": "Schritt von {steps}"}, "sparsedit.told.step has other figures than {step}, {steps}"),
        ({"sparsedit.told.step": "Schritt {step} von {steps} {"}, "sparsedit.told.step has one of"),
        ({"sparsedit.told.step": ""}, "sparsedit.told.step is missing"),
    ],
)
def test_what_is_wrong_is_reported_by_name(change: dict[str, str], told: str) -> None:
    assert any(line.startswith(f"de: {told}") for line in problems(ENGLISH, "de", GERMAN | change, MADE_FROM))


def test_a_changed_english_text_is_reported_by_name() -> None:
    english = ENGLISH | {"A.display_name": "Another node"}
    (line,) = problems(english, "de", GERMAN, MADE_FROM)
    assert line.startswith("de: A.display_name is stale")
    assert differences(ENGLISH, english) == ["A.display_name is not the text in the code; run update"]


def test_nested_is_the_inverse_of_flat() -> None:
    tree = json.loads((FOLDER / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    assert nested(flat(tree)) == tree


def test_outputs_named_like_their_type_have_no_name() -> None:
    info = {
        "display_name": "A node",
        "description": "Does.",
        "input": {"required": {"rate": ["FLOAT", {"tooltip": "Much."}]}, "optional": {}},
        "output": ["MODEL", "IMAGE"],
        "output_name": ["MODEL", "sheet"],
        "output_tooltips": ["It.", "That."],
    }
    assert node_texts({"A": info}) == {
        "A.display_name": "A node",
        "A.description": "Does.",
        "A.inputs.rate.name": "rate",
        "A.inputs.rate.tooltip": "Much.",
        "A.outputs.0.tooltip": "It.",
        "A.outputs.1.name": "sheet",
        "A.outputs.1.tooltip": "That.",
    }
