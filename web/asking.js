/** Asks a route of the server again whenever what is asked has changed: the live pictures on nodes. */

import { api } from "../../scripts/api.js";

const RETRY = 2000;

/** JSON in, JSON out: {ok, data}, or `null` where the server does not answer. */
export async function post(route, body) {
  try {
    const answer = await api.fetchApi(route, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    return { ok: answer.ok, data: await answer.json() };
  } catch {
    return null;
  }
}

export class Asking {
  /**
   * Every `every` ms, because loading and undo call no callbacks, `request()` gives the JSON text to send; then
   * `answered(data, body)`, `refused(sentence)` or `away()` is called.
   */
  constructor(node, route, every, { request, answered, refused, away }) {
    Object.assign(this, { node, route, request, answered, refused, away });
    this.asked = "";
    this.asking = false;
    this.retryAt = 0;
    this.timer = setInterval(() => this.look(), every);
  }

  look() {
    if (!this.node.graph || document.hidden) return;
    const body = this.request();
    if (this.asking || body === this.asked || performance.now() < this.retryAt) return;
    this.asking = true;
    this.ask(body).finally(() => (this.asking = false));
  }

  async ask(body) {
    const answer = await post(this.route, body);
    if (!answer) {
      this.retryAt = performance.now() + RETRY;
      this.away();
      return;
    }
    this.asked = body;
    if (answer.ok) this.answered(answer.data, body);
    else this.refused(answer.data.error);
  }

  /** The same question may have another answer now. */
  again() {
    this.asked = "";
  }

  close() {
    clearInterval(this.timer);
  }
}

/** An element of a live picture, marked for the tests and for those who write styles. */
export function marked(tag, name, style) {
  const made = document.createElement(tag);
  made.dataset.sparsedit = name;
  made.style.cssText = style;
  return made;
}

/** Put a live picture on a node: no widget value, nothing in a saved workflow. */
export function addPicture(node, name, type, element, height, width) {
  const widget = node.addDOMWidget(name, type, element, { serialize: false, hideOnZoom: false, getMinHeight: () => height });
  widget.serialize = false; // keeps it out of widgets_values
  node.setSize([Math.max(node.size[0], width), Math.max(node.size[1], node.computeSize()[1])]);
}

/** Call `after` once a method of the node has run. */
export function follow(node, name, after) {
  const called = node[name];
  node[name] = function (...args) {
    const result = called?.apply(this, args);
    after(...args);
    return result;
  };
}
