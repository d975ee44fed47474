/**
 * The live picture on SparseDiT Cache Plan: steps across, blocks down, and what the plan takes.
 *
 * Picture and words are the answer of POST /sparsedit/plan, which the node's own Python code gives. Elements:
 * data-sparsedit="plan" (all), "plan-picture", "plan-words"; data-state as in the schedule editor.
 */

import { app } from "../../scripts/app.js";
import { addPicture, Asking, follow, marked } from "./asking.js";
import { modelOf } from "./schedule_model.js";
import { say } from "./schedule_words.js";

const NODE = "SparseDiTCachePlan";
const WATCH = 200;
const HEIGHT = 330;
const WIDTH = 420;
const VALUES = ["source", "budget", "steps", "scheduler"];

class PlanView {
  constructor(node) {
    this.node = node;
    this.token = null; // of what the node last ran with
    this.element = marked("div", "plan", "display:flex;flex-direction:column;gap:4px;width:100%;height:100%;overflow:hidden;padding:2px");
    this.picture = marked("img", "plan-picture", "flex:1 1 0;min-height:0;width:100%;object-fit:contain;object-position:top;border-radius:6px");
    this.words = marked("div", "plan-words", "font:12px sans-serif;color:var(--input-text);line-height:1.35");
    this.words.setAttribute("role", "status");
    this.picture.hidden = true;
    this.element.append(this.picture, this.words);
    this.asking = new Asking(node, "/sparsedit/plan", WATCH, {
      request: () => this.request(),
      answered: (data) => this.show(data),
      refused: (sentence) => this.tell("error", sentence),
      away: () => this.tell("away", say("away")),
    });
  }

  request() {
    const values = Object.fromEntries(VALUES.map((name) => [name, this.node.widgets.find((each) => each.name === name)?.value]));
    const model = modelOf(this.node);
    if (model.checkpoint !== this.checkpoint) this.token = null; // what was known is of another model
    this.checkpoint = model.checkpoint;
    const linked = this.node.inputs?.some((input) => input.name === "plan" && input.link != null) ?? false;
    return JSON.stringify({ values, linked, token: this.token, ...model });
  }

  show({ picture, words }) {
    this.picture.hidden = !picture;
    if (picture) this.picture.src = `data:image/png;base64,${picture}`;
    this.picture.alt = words;
    this.tell("ready", words);
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
    addPicture(node, "view", "sparsedit_plan", view.element, HEIGHT, WIDTH);
    follow(node, "onExecuted", (output) => (view.token = output?.sparsedit_plan?.[0] ?? view.token));
    follow(node, "onConnectionsChange", () => (view.token = null)); // another model or plan
    follow(node, "onRemoved", () => view.asking.close());
  },
});
