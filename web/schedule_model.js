/** Finds in the graph which model a schedule node acts on: the checkpoint's name, a layout, the latent's size. */

const HOPS = 40;
const FACTS = ["num_heads", "sparse_side", "position_scale", "base_size"]; // of SparseDiT Load Checkpoint

const widget = (node, name) => node.widgets?.find((each) => each.name === name)?.value;

function source(node, slot) {
  const input = node.inputs?.[slot];
  const link = input && input.link != null ? node.graph?.getLink?.(input.link) ?? node.graph?.links?.[input.link] : null;
  return link ? node.graph.getNodeById(link.origin_id) : null;
}

function named(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  return slot < 0 ? null : source(node, slot);
}

/** Nodes that an output of `node` is linked to. */
function targets(node) {
  const links = (node.outputs ?? []).flatMap((output) => output.links ?? []);
  const found = links.map((id) => node.graph?.getLink?.(id) ?? node.graph?.links?.[id]);
  return found.filter(Boolean).map((link) => node.graph.getNodeById(link.target_id)).filter(Boolean);
}

/** The node itself, or what follows it behind reroutes. */
function throughReroutes(nodes, hops = HOPS) {
  return nodes.flatMap((node) => (node.type === "Reroute" && hops ? throughReroutes(targets(node), hops - 1) : [node]));
}

/** Up the links of type MODEL to what knows a checkpoint. */
function upstream(node, found = {}) {
  for (let hops = 0; node && hops < HOPS; hops++) {
    const layout = widget(node, "layout");
    if (layout && !found.layout) found.layout = layout;
    const checkpoint = widget(node, "checkpoint");
    if (checkpoint) return { ...found, checkpoint, facts: Object.fromEntries(FACTS.map((name) => [name, widget(node, name)])) };
    const slot = (node.inputs ?? []).findIndex((input) => input.type === "MODEL" || input.name === "model" || input.name === "");
    node = slot < 0 ? null : source(node, slot);
  }
  return {};
}

/** A size of a latent from widgets named width and height, in latent pixels. */
function latentSize(node, hops = HOPS) {
  if (!node || !hops) return null;
  const [width, height] = [widget(node, "width"), widget(node, "height")];
  if (width > 0 && height > 0) {
    const pixels = /pixel|radiance/i.test(node.type);
    return [height, width].map((side) => Math.max(1, Math.floor(side / (pixels ? 1 : 8))));
  }
  const slot = (node.inputs ?? []).findIndex((input) => input.type === "LATENT");
  return slot < 0 ? null : latentSize(source(node, slot), hops - 1);
}

/** {checkpoint, layout, latent} of the model behind the schedule node, each only where it is found. */
export function modelOf(node) {
  const users = throughReroutes(targets(node)).filter((each) => named(each, "schedule") || named(each, "model"));
  const own = named(node, "model");
  const model = own ? upstream(own) : users.map((user) => upstream(named(user, "model"))).find((each) => each.checkpoint);
  const found = { ...(model ?? {}) };
  const samplers = throughReroutes(users.flatMap((user) => targets(user)));
  const latent = named(node, "latent") ?? [...users, ...samplers].map((each) => named(each, "latent_image")).find(Boolean);
  const size = latentSize(latent);
  if (size) found.latent = size;
  return found;
}
