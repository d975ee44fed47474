/** Finds in the graph which model a schedule node acts on: the checkpoint's name, a layout, the latent's size. */

const HOPS = 40;
const SUBGRAPH_INPUT = -10;
const SUBGRAPH_OUTPUT = -20;
const BYPASSED = 4;
const FACTS = ["num_heads", "sparse_side", "position_scale", "base_size"]; // of SparseDiT Load Checkpoint

const widget = (node, name) => node.widgets?.find((each) => each.name === name)?.value;

const linkOf = (graph, id) => graph?.getLink?.(id) ?? graph?.links?.[id];

/** The node of a subgraph in the graph around it; of several copies the first. */
function around(graph) {
  const root = graph.rootGraph;
  const graphs = root && root !== graph ? [root, ...(root.subgraphs?.values() ?? [])] : [];
  return graphs.flatMap((each) => [...(each.nodes ?? [])]).find((node) => node.subgraph === graph);
}

/** The node that an input is linked to, through the borders of subgraphs. */
function source(node, slot, hops = HOPS) {
  const input = node.inputs?.[slot];
  const link = input?.link != null ? linkOf(node.graph, input.link) : null;
  if (!link || !hops) return null;
  if (link.origin_id === SUBGRAPH_INPUT) {
    const outer = around(node.graph);
    return outer ? source(outer, link.origin_slot, hops - 1) : null;
  }
  const found = node.graph.getNodeById(link.origin_id);
  return found?.subgraph ? inner(found, link.origin_slot) ?? found : found;
}

/** The node inside a subgraph that gives one of its outputs. */
function inner(node, slot) {
  const link = linkOf(node.subgraph, node.subgraph.outputs?.[slot]?.linkIds?.[0]);
  const found = link && link.origin_id !== SUBGRAPH_INPUT ? node.subgraph.getNodeById(link.origin_id) : null;
  return found?.subgraph ? inner(found, link.origin_slot) : found;
}

function named(node, name) {
  const slot = node.inputs?.findIndex((input) => input.name === name) ?? -1;
  return slot < 0 ? null : source(node, slot);
}

/** Nodes that an output of `node` is linked to. */
function targets(node) {
  return (node.outputs ?? []).flatMap((output) => ends(node.graph, output.links));
}

function ends(graph, ids, hops = HOPS) {
  const links = [...(ids ?? [])].map((id) => linkOf(graph, id)).filter(Boolean);
  return links.flatMap((link) => {
    if (link.target_id === SUBGRAPH_OUTPUT) {
      const outer = around(graph);
      return outer && hops ? ends(outer.graph, outer.outputs?.[link.target_slot]?.links, hops - 1) : [];
    }
    const found = graph.getNodeById(link.target_id);
    if (!found?.subgraph) return found ? [found] : [];
    return hops ? ends(found.subgraph, found.subgraph.inputs?.[link.target_slot]?.linkIds, hops - 1) : [];
  });
}

/** The node itself, or what follows it behind reroutes. */
function throughReroutes(nodes, hops = HOPS) {
  return nodes.flatMap((node) => (node.type === "Reroute" && hops ? throughReroutes(targets(node), hops - 1) : [node]));
}

/** Up the links of type MODEL to what knows a checkpoint. */
function upstream(node, found = {}) {
  for (let hops = 0; node && hops < HOPS; hops++) {
    const acts = node.mode !== BYPASSED;
    const layout = acts && widget(node, "layout");
    if (layout && !found.layout) found.layout = layout;
    const checkpoint = acts && widget(node, "checkpoint");
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
