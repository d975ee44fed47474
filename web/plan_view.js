/**
 * The live picture on SparseDiT Cache Plan: steps across, blocks down, and what the plan takes.
 *
 * Picture and words are the answer of POST /sparsedit/plan, which the node's own Python code gives. Elements:
 * data-sparsedit="plan" (all), "plan-picture", "plan-words"; data-state as in the schedule editor.
 */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { modelOf } from "./schedule_model.js";
import { say } from "./schedule_words.js";

const NODE = "SparseDiTCachePlan";
const WATCH = 200; // ms between two looks at the widgets: loading and undo call no callbacks
const RETRY = 2000;
const HEIGHT = 330;
const WIDTH = 420;
const VALUES = ["source", "budget", "steps", "scheduler"];

class PlanView {
  constructor(node) {
    this.node = node;
    this.token = null;
    this.asked = "";
    this.asking = false;
    this.retryAt = 0;
    const make = (tag, name, style) => {
      const made = document.createElement(tag);
      made.dataset.sparsedit = name;
      made.style.cssText = style;
      return made;
    };
    this.element = make("div", "plan", "display:flex;flex-direction:column;gap:4px;width:100%;height:100%;overflow:hidden;padding:2px");
    this.picture = make("img", "plan-picture", "flex:1 1 0;min-height:0;width:100%;object-fit:contain;object-position:top;border-radius:6px");
    this.words = make("div", "plan-words", "font:12px sans-serif;color:var(--input-text);line-height:1.35");
    this.words.setAttribute("role", "status");
    this.picture.hidden = true;
    this.element.append(this.picture, this.words);
    this.timer = setInterval(() => this.watch(), WATCH);
  }

  request() {
    const found = Object.fromEntries(VALUES.map((name) => [name, this.node.widgets.find((each) => each.name === name)?.value]));
    const model = modelOf(this.node);
    if (model.checkpoint !== this.checkpoint) this.token = null; // what was known is of another model
    this.checkpoint = model.checkpoint;
    const linked = this.node.inputs?.some((input) => input.name === "plan" && input.link != null) ?? false;
    return JSON.stringify({ values: found, linked, token: this.token, ...model });
  }

  watch() {
    if (!this.node.graph || document.hidden) return;
    const body = this.request();
    if (this.asking || body === this.asked || performance.now() < this.retryAt) return;
    this.asking = true;
    this.ask(body).finally(() => (this.asking = false));
  }

  async ask(body) {
    let answer;
    let data;
    try {
      answer = await api.fetchApi("/sparsedit/plan", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body,
      });
      data = await answer.json();
    } catch {
      this.retryAt = performance.now() + RETRY;
      this.tell("away", say("away"));
      return;
    }
    this.asked = body;
    if (!answer.ok) return this.tell("error", data.error);
    this.picture.hidden = !data.picture;
    if (data.picture) this.picture.src = `data:image/png;base64,${data.picture}`;
    this.picture.alt = data.words;
    this.tell("ready", data.words);
  }

  tell(state, words) {
    this.element.dataset.state = state;
    this.words.textContent = words;
    this.words.style.color = state === "ready" ? "var(--input-text)" : "var(--error-text, #ff5c5c)";
    this.picture.style.opacity = state === "ready" ? 1 : 0.45;
  }
}

app.registerExtension({
  name: "sparsedit.planView",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const view = new PlanView(node);
    const widget = node.addDOMWidget("view", "sparsedit_plan", view.element, {
      serialize: false,
      hideOnZoom: false,
      getMinHeight: () => HEIGHT,
    });
    widget.serialize = false; // keeps it out of widgets_values
    node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], node.computeSize()[1])]);
    const executed = node.onExecuted;
    node.onExecuted = function (output, ...others) {
      executed?.call(this, output, ...others);
      view.token = output?.sparsedit_plan?.[0] ?? view.token;
    };
    const connected = node.onConnectionsChange;
    node.onConnectionsChange = function (...args) {
      connected?.apply(this, args);
      view.token = null; // another model or plan: what was known is of the one before
    };
    const removed = node.onRemoved;
    node.onRemoved = function (...args) {
      clearInterval(view.timer);
      removed?.apply(this, args);
    };
  },
});
