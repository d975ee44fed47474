/**
 * The live picture on SparseDiT Pruning Schedule: tokens kept along the sampling, the grid at every step, MACs against
 * the dense model, the range the checkpoint was trained with; points of a custom curve are edited in it.
 *
 * Everything shown is the answer of POST /sparsedit/schedule, which the schedule's own Python code gives. Elements:
 * data-sparsedit="editor" (all), "canvas", "cost", "message" (errors, warnings), "presets" and its buttons
 * "preset-save", "preset-delete", "preset-export", "preset-import", "preset-paste". The editor has the attribute
 * data-state="ready", "error" (a sentence of the server is shown) or "away" (it does not answer).
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { addPicture, Asking, follow, marked } from "./asking.js";
import { draw } from "./schedule_draw.js";
import { modelOf } from "./schedule_model.js";
import { PointEditor, readPoints, writePoints } from "./schedule_points.js";
import { Presets } from "./schedule_presets.js";
import { loadWords, say, told } from "./schedule_words.js";

const NODE = "SparseDiTPruningSchedule";
const WATCH = 100; // ms between two looks at the widgets: loading and undo call no callbacks
const HEIGHT = 330;
const WIDTH = 420;
const WARNING = "color-mix(in srgb, #e0a030 65%, var(--input-text))"; // legible on light and dark
const RATES = ["rate_noise", "rate_clean"];

/** Lets ComfyUI's undo see a change that no mouse or key event of its own led to. */
const remember = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker?.checkState?.();

class Editor {
  constructor(node) {
    this.node = node;
    this.view = null;
    this.build();
    this.presets = new Presets(node, () => this.values(), (values) => {
      this.write(values);
      remember();
    });
    this.element.append(this.presets.element);
    this.points = new PointEditor(this.canvas, {
      active: () => this.value("curve") === "custom" && Boolean(this.view),
      points: () => readPoints(this.value("points")),
      store: (points) => this.write({ points: writePoints(points) }),
      limits: () => this.limits(),
      stored: () => remember(),
      redraw: () => this.redraw(),
      get frame() {
        return this.owner.frame;
      },
      owner: this,
    });
    this.hover = null;
    this.canvas.addEventListener("pointermove", (event) => this.pointAt(this.points.at(event)[0]));
    this.canvas.addEventListener("pointerleave", () => this.pointAt(null));
    this.observer = new ResizeObserver(() => this.redraw());
    this.observer.observe(this.canvas);
    this.asking = new Asking(node, "/sparsedit/schedule", WATCH, {
      request: () => this.request(),
      answered: (data, body) => this.show(data, JSON.parse(body).values.preset),
      refused: (sentence) => {
        this.cost.textContent = ""; // figures beside other sliders would be wrong ones
        this.tell("error", sentence);
      },
      away: () => this.tell("away", say("away")),
    });
    this.ran = () => this.asking.again(); // a finished run may have measured what is shown
    api.addEventListener("execution_success", this.ran);
    for (const name of RATES) this.leaveRowWith(name);
  }

  build() {
    this.element = marked(
      "div", "editor", "display:flex;flex-direction:column;gap:4px;width:100%;height:100%;overflow:hidden;padding:2px"
    );
    this.canvas = marked("canvas", "canvas", "flex:1 1 0;min-height:170px;width:100%;border-radius:6px;outline-offset:-2px");
    this.canvas.style.background = "var(--comfy-input-bg)";
    this.cost = marked("div", "cost", "font:12px sans-serif;color:var(--input-text);line-height:1.35;white-space:pre-line");
    this.message = marked("div", "message", "font:12px sans-serif;line-height:1.35;white-space:pre-line");
    this.message.setAttribute("role", "status");
    this.element.append(this.canvas, this.cost, this.message);
  }

  value(name) {
    return this.node.widgets.find((widget) => widget.name === name)?.value;
  }

  values() {
    const named = this.node.widgets.filter((widget) => widget.serialize !== false && widget.name !== "editor");
    return Object.fromEntries(named.map((widget) => [widget.name, widget.value]));
  }

  write(values) {
    this.writing = true;
    for (const [name, value] of Object.entries(values)) {
      const widget = this.node.widgets.find((each) => each.name === name);
      if (!widget || widget.value === value) continue;
      widget.value = value;
      widget.callback?.(value, app.canvas, this.node);
    }
    this.writing = false;
    app.graph?.setDirtyCanvas(true, true);
    this.redraw();
    this.asking.look();
  }

  request() {
    this.presets.chosen(this.value("preset"));
    const values = this.values();
    const { preview_steps, preview_tokens } = values;
    return JSON.stringify({ values, preview_steps, preview_tokens, ...modelOf(this.node) });
  }

  show(data, preset) {
    this.view = data;
    this.showPaperRow(preset);
    this.tell("ready", [data.model_error, told(data.warning)].filter(Boolean).join("\n"));
    const counted = [told(data.summary), told(data.cost)].filter(Boolean).join("; ");
    this.cost.textContent = [counted, told(data.measured)].filter(Boolean).join("\n"); // what was timed on its own line
  }

  /** Between which rates points may lie: those of the sliders, also while the server refuses points beyond them. */
  limits() {
    if (this.value("preset") !== "custom") return this.view.limits;
    return { low: this.value("rate_clean"), high: this.value("rate_noise") };
  }

  /** A slider moved by hand leaves the paper's row for `custom`, the other slider at the row's rate. */
  leaveRowWith(name) {
    const widget = this.node.widgets.find((each) => each.name === name);
    const called = widget.callback;
    widget.callback = (value, ...others) => {
      const result = called?.call(widget, value, ...others);
      const { low, high } = this.view?.limits ?? {};
      const row = { rate_noise: high, rate_clean: low };
      const shown = this.shownRow && this.shownRow === this.value("preset");
      if (!this.writing && shown && Math.abs(value - row[name]) > 1e-6) {
        this.shownRow = "";
        this.write({ ...row, [name]: value, preset: "custom" });
      }
      return result;
    };
  }

  /** A row of the paper decides the rates; the sliders show them. */
  showPaperRow(preset) {
    if (preset === "custom" || preset !== this.value("preset")) return;
    const { low, high } = this.view.limits;
    this.shownRow = preset;
    this.write({ rate_noise: high, rate_clean: low });
  }

  /** The step above or below the mouse is told in words. */
  pointAt(x) {
    this.hover = x;
    this.redraw();
  }

  tell(state, words) {
    this.element.dataset.state = state;
    this.message.textContent = words;
    this.message.style.color = state === "ready" ? WARNING : "var(--error-text, #ff5c5c)";
    this.canvas.style.opacity = state === "ready" ? 1 : 0.45;
    this.redraw();
  }

  redraw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!this.view || !width || !height) return;
    const custom = this.value("curve") === "custom";
    const points = custom ? readPoints(this.value("points")) : [];
    const scale = Math.max(window.devicePixelRatio || 1, 1) * Math.min(Math.max(app.canvas?.ds?.scale ?? 1, 1), 3);
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    const context = this.canvas.getContext("2d");
    context.scale(scale, scale);
    this.frame = draw(context, this.view, points, this.points?.chosen ?? -1, width, height, this.hover);
    this.canvas.tabIndex = custom ? 0 : -1;
    this.canvas.style.cursor = custom ? "crosshair" : "default";
    this.canvas.setAttribute("role", custom ? "application" : "img");
    this.canvas.setAttribute("aria-label", this.label(points));
  }

  label(points) {
    const parts = [say("picture", { summary: told(this.view.summary) })];
    if (this.value("curve") === "custom") {
      const chosen = points[this.points.chosen];
      if (chosen) parts.push(say("chosen", { time: chosen[0].toFixed(2), rate: chosen[1].toFixed(2) }));
      parts.push(say("points", { count: points.length }));
    }
    return parts.join(" ");
  }

  close() {
    this.asking.close();
    api.removeEventListener("execution_success", this.ran);
    this.observer.disconnect();
    this.presets.close();
  }
}

app.registerExtension({
  name: "sparsedit.scheduleEditor",
  init: loadWords, // ComfyUI waits for it before it makes nodes
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const editor = new Editor(node);
    addPicture(node, "editor", "sparsedit_editor", editor.element, HEIGHT, WIDTH);
    follow(node, "onRemoved", () => editor.close());
  },
});
