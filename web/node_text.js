/**
 * Texts that our nodes write on themselves, such as why they refuse to run, are shown whole in LiteGraph: ComfyUI's own
 * widget for them is one and a half lines high. Nodes 2.0 shows them whole by itself.
 */

import { app } from "../../scripts/app.js";

const TEXT = "$$node-text-preview"; // of ComfyUI's progress texts
const MARGIN = 10; // of a DOM widget, on each side
const STYLE = "position:absolute;visibility:hidden;box-sizing:border-box;padding:8px 16px;max-height:200px;" +
  "font-size:12px;line-height:16px;word-break:break-all;white-space:pre-wrap"; // as the widget has them

let ruler = null;

/** Pixels that the widget takes for a text on a node of this width. */
function heightOf(text, width) {
  if (!ruler) {
    ruler = document.createElement("div");
    ruler.style.cssText = STYLE;
    document.body.append(ruler);
  }
  ruler.style.width = `${width - 2 * MARGIN}px`;
  ruler.textContent = text;
  const height = ruler.offsetHeight + 2 * MARGIN;
  ruler.textContent = "";
  return height;
}

/** Makes the widget as high as its text; ComfyUI asks at every frame, so only a new text or width is measured. */
function fit(node, widget) {
  const usual = widget.options.getMinHeight;
  let known = [];
  widget.options.getMinHeight = () => {
    if (window.LiteGraph.vueNodesMode) return usual();
    const [text, width] = [String(widget.value ?? ""), node.size[0]];
    if (known[0] !== text || known[1] !== width) known = [text, width, heightOf(text, width)];
    return Math.max(usual(), known[2]);
  };
}

app.registerExtension({
  name: "sparsedit.nodeText",
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("SparseDiT")) return;
    const add = node.addCustomWidget;
    node.addCustomWidget = function (widget, ...others) {
      if (widget.name === TEXT && widget.options?.getMinHeight) fit(this, widget);
      return add.call(this, widget, ...others);
    };
  },
});
