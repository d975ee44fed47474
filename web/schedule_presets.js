/**
 * The user's own presets beside the paper's rows: they are added to the options of the node's `preset` widget. Choosing
 * one copies its values into the sliders and leaves `custom` there, so that a shared workflow needs no preset file.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { say } from "./schedule_words.js";

const MINE = "mine: ";
const listeners = new Set();
let presets = [];

async function ask(action, body = {}) {
  const answer = await api.fetchApi(`/sparsedit/presets/${action}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.error);
  presets = data.presets;
  listeners.forEach((listener) => listener());
  return data;
}

const tell = (severity, summary, detail) =>
  app.extensionManager?.toast?.add({ severity, summary, detail, life: severity === "error" ? 9000 : 3000 });

const promptFor = (title, message) =>
  app.extensionManager?.dialog?.prompt ? app.extensionManager.dialog.prompt({ title, message }) : window.prompt(message);

const confirmed = (title, message) =>
  app.extensionManager?.dialog?.confirm ? app.extensionManager.dialog.confirm({ title, message }) : window.confirm(message);

/** Puts the presets into the widget's options and gives a row of buttons; `values()` are the node's widgets. */
export class Presets {
  constructor(node, values, write) {
    this.combo = node.widgets.find((widget) => widget.name === "preset");
    this.rows = [...this.combo.options.values];
    this.values = values;
    this.write = write;
    this.last = null;
    this.element = this.buttons();
    this.refresh = this.refresh.bind(this);
    listeners.add(this.refresh);
    this.refresh();
    ask("list").catch(() => {}); // the picture tells when the server is away
  }

  close() {
    listeners.delete(this.refresh);
  }

  refresh() {
    this.combo.options.values = [...this.rows, ...presets.map((preset) => MINE + preset.name)];
    const mine = this.find(this.last);
    for (const button of this.needMine) {
      button.disabled = !mine;
      button.style.opacity = mine ? 1 : 0.4;
    }
  }

  find(name) {
    return presets.find((preset) => preset.name === name);
  }

  /** Called with the widget's value whenever it may have changed. */
  chosen(value) {
    if (!String(value).startsWith(MINE)) return;
    const preset = this.find(String(value).slice(MINE.length));
    this.write(preset ? preset.widgets : { preset: "custom" });
    if (!preset) return;
    this.last = preset.name;
    this.refresh();
  }

  buttons() {
    const row = document.createElement("div");
    row.dataset.sparsedit = "presets";
    row.style.cssText = "display:flex;gap:4px;flex-wrap:wrap;align-items:center";
    const button = (key, act) => {
      const made = document.createElement("button");
      made.type = "button";
      made.textContent = say(key);
      made.title = say(`${key}_tip`);
      made.dataset.sparsedit = key.replace("_", "-");
      made.style.cssText =
        "font:11px sans-serif;padding:2px 8px;border-radius:4px;cursor:pointer;color:var(--input-text);" +
        "background:var(--comfy-input-bg);border:1px solid var(--border-color)";
      made.addEventListener("pointerdown", (event) => event.stopPropagation());
      made.addEventListener("click", () => act().catch((error) => tell("error", say("preset"), error.message)));
      row.append(made);
      return made;
    };
    button("preset_save", () => this.save());
    this.needMine = [
      button("preset_delete", () => this.remove()),
      button("preset_export", () => this.export()),
    ];
    button("preset_import", () => this.importFile());
    button("preset_paste", () => this.paste());
    return row;
  }

  async save() {
    const name = await promptFor(say("save_title"), say("save_name"));
    if (!name) return;
    if (this.find(name) && !(await confirmed(say("save_title"), say("save_replace", { name })))) return;
    await ask("save", { name, values: this.values() });
    this.last = name;
    this.refresh();
    tell("success", say("preset"), say("saved", { name }));
  }

  async remove() {
    if (!(await confirmed(say("delete_title"), say("delete_sure", { name: this.last })))) return;
    await ask("delete", { name: this.last });
    this.last = null;
    this.refresh();
  }

  async export() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([this.find(this.last).text], { type: "application/json" }));
    link.download = `${this.last}.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  }

  async importFile() {
    const input = document.createElement("input");
    input.type = "file";
    input.accept = ".json,application/json";
    const file = await new Promise((resolve) => {
      input.onchange = () => resolve(input.files[0]);
      input.oncancel = () => resolve(null);
      input.click();
    });
    if (file) await this.add(await file.text());
  }

  async paste() {
    const text = await promptFor(say("import_title"), say("import_text"));
    if (text) await this.add(text);
  }

  async add(text) {
    const { name } = await ask("import", { text });
    this.chosen(MINE + name);
    tell("success", say("preset"), say("imported", { name }));
  }
}
