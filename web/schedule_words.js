/**
 * The editor's words. English is here and, for what the server tells, in the server's own answer; other languages are
 * in locales/LANGUAGE/main.json under "sparsedit", which ComfyUI serves.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

// plain JSON, which the tests read; a name in braces is a figure
const ENGLISH = {
  "kept": "tokens kept at each step",
  "kept_trained": "tokens kept at each step; green: trained range",
  "noise": "noise",
  "image": "image",
  "step": "step {step} of {steps}: {grid}, {density} % of tokens",
  "step_cost": "step {step} of {steps}: {grid}, {density} % of tokens, {macs} % of dense MACs",
  "away": "ComfyUI does not answer: the picture may be out of date.",
  "picture": "Tokens kept along the sampling: {summary}.",
  "points": "{count} points. Click adds a point, right click deletes it; Tab chooses one, arrows move it, Delete removes it, Enter adds one.",
  "chosen": "Chosen point: time {time}, rate {rate}.",
  "preset_save": "Save",
  "preset_save_tip": "Keep these values as a preset of yours",
  "preset_delete": "Delete",
  "preset_delete_tip": "Delete your preset that was chosen last",
  "preset_export": "Export",
  "preset_export_tip": "Download your preset that was chosen last as a small JSON file",
  "preset_import": "Import",
  "preset_import_tip": "Add a preset from a JSON file",
  "preset_paste": "Paste",
  "preset_paste_tip": "Add a preset from JSON text",
  "preset": "SparseDiT preset",
  "save_title": "Save preset",
  "save_name": "Name of the preset",
  "save_replace": "Replace your preset \"{name}\"?",
  "saved": "{name} is saved",
  "delete_title": "Delete preset",
  "delete_sure": "Delete your preset \"{name}\"?",
  "import_title": "Import preset",
  "import_text": "The JSON text of a preset",
  "imported": "{name} is imported"
};

let languages = {};

/** Fetches the other languages; without them everything is said in English. */
export async function loadWords() {
  try {
    const answer = await api.fetchApi("/i18n");
    const all = answer.ok ? await answer.json() : {};
    languages = Object.fromEntries(Object.entries(all).map(([name, texts]) => [name, texts?.sparsedit]));
  } catch {
    languages = {};
  }
}

function translated(group, key) {
  const language = app.extensionManager?.setting?.get("Comfy.Locale");
  return languages[language]?.[group]?.[key];
}

const fill = (text, figures) => text.replace(/\{(\w+)\}/g, (whole, name) => figures[name] ?? whole);

/** A text of the editor in the language of the page. */
export const say = (key, figures = {}) => fill(translated("editor", key) ?? ENGLISH[key], figures);

/** A sentence of the server, {key, figures, words}, in the language of the page; "" for none. */
export function told(sentence) {
  if (!sentence) return "";
  const text = translated("told", sentence.key);
  return text ? fill(text, sentence.figures) : sentence.words;
}
