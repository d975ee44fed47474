/** Draws the answer of /sparsedit/schedule on a canvas. Only places numbers on the screen; none is computed here. */

import { say } from "./schedule_words.js";

const MARGIN = { left: 44, right: 14, top: 12, bottom: 34 };
const COLOURS = { keep: "#4a8af4", dots: "#f08a3c", trained: "#3fae7f" };

/** Colours of the page, which follow ComfyUI's theme. */
export function theme() {
  const style = getComputedStyle(document.body);
  const get = (name, other) => style.getPropertyValue(name).trim() || other;
  return {
    paper: get("--comfy-input-bg", "#222"),
    ink: get("--input-text", "#ddd"),
    soft: get("--descrip-text", "#999"),
    rule: get("--border-color", "#4e4e4e"),
    ...COLOURS,
  };
}

/** Where times (1 noise, left; 0 image, right) and densities lie on a canvas of this size, and back. */
export class Frame {
  constructor(width, height, top) {
    this.width = width;
    this.height = height;
    this.top = top;
    this.right = width - MARGIN.right;
    this.lower = height - MARGIN.bottom;
  }

  x(time) {
    return MARGIN.left + (1 - time) * (this.right - MARGIN.left);
  }

  y(density) {
    return this.lower - (density / this.top) * (this.lower - MARGIN.top);
  }

  time(x) {
    return 1 - (x - MARGIN.left) / (this.right - MARGIN.left);
  }

  density(y) {
    return ((this.lower - y) / (this.lower - MARGIN.top)) * this.top;
  }

  inside(x, y) {
    return x >= MARGIN.left && x <= this.right && y >= MARGIN.top && y <= this.lower;
  }
}

/** The frame that shows all of a view: its densities, the trained range, the points of a custom curve. */
function frameOf(view, points, width, height) {
  const shown = [...view.buckets.map((b) => b.density), ...view.curve.map((c) => c[1]), ...points.map((p) => 1 - p[1])];
  const top = 1.12 * Math.max(0.05, ...shown, ...(view.trained ? view.trained.buckets.map((b) => b.density) : []));
  return new Frame(width, height, Math.min(top, 1.08));
}

/**
 * The whole picture; `points` are those of a custom curve, or empty, `chosen` the number of the focused one. The step
 * nearest to the column `hover` is told in words.
 */
export function draw(context, view, points, chosen, width, height, hover = null) {
  const colours = theme();
  const frame = frameOf(view, points, width, height);
  context.clearRect(0, 0, width, height);
  trainedRange(context, frame, view, colours);
  const step = hover === null ? -1 : nearest(frame, view, hover);
  axes(context, frame, step < 0 ? caption(context, frame, view) : inWords(view, step), colours);
  kept(context, frame, view, colours);
  labels(context, frame, view, colours);
  dots(context, frame, view, step, colours);
  points.forEach((point, number) => handle(context, frame, point, number === chosen, colours));
  return frame;
}

function nearest(frame, view, x) {
  const far = view.evaluations.map((evaluation) => Math.abs(frame.x(evaluation.time) - x));
  return far.indexOf(Math.min(...far));
}

/** What the picture is, and the legend of the shaded range where there is room. */
function caption(context, frame, view) {
  const legend = say("kept_trained");
  context.font = "11px sans-serif";
  return view.trained && context.measureText(legend).width < frame.width - 20 ? legend : say("kept");
}

function inWords(view, step) {
  const { grid, density } = view.evaluations[step];
  const figures = { step: step + 1, steps: view.evaluations.length, grid: grid.join("x"), density: Math.round(100 * density) };
  if (!view.cost) return say("step", figures);
  return say("step_cost", { ...figures, macs: Math.round(100 * view.cost.per_evaluation[step]) });
}

function trainedRange(context, frame, view, colours) {
  if (!view.trained) return;
  const [low, high] = view.trained.densities;
  const upper = Math.max(frame.y(high), frame.y(frame.top));
  context.fillStyle = colours.trained;
  context.globalAlpha = 0.13;
  context.fillRect(frame.x(1), upper - 1, frame.x(0) - frame.x(1), Math.max(frame.y(low) - upper, 0) + 2);
  context.globalAlpha = 0.9;
  stairs(context, frame, view.trained.buckets);
  context.strokeStyle = colours.trained;
  context.lineWidth = 1.2;
  context.setLineDash([2, 3]);
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
}

function axes(context, frame, words, colours) {
  context.font = "11px sans-serif";
  context.lineWidth = 1;
  context.textBaseline = "middle";
  context.textAlign = "right";
  const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.25].find((s) => frame.top / s <= 5.5) || 0.25;
  for (let share = 0; share <= frame.top + 1e-9; share += step) {
    const y = Math.round(frame.y(share)) + 0.5;
    context.strokeStyle = colours.rule;
    context.globalAlpha = share ? 0.6 : 1;
    line(context, frame.x(1), y, frame.x(0), y);
    context.globalAlpha = 1;
    context.fillStyle = colours.soft;
    context.fillText(`${Math.round(100 * share)} %`, frame.x(1) - 6, y);
  }
  context.textBaseline = "top";
  context.textAlign = "left";
  context.fillText(say("noise"), frame.x(1), frame.lower + 5);
  context.textAlign = "right";
  context.fillText(say("image"), frame.x(0), frame.lower + 5);
  context.textAlign = "center";
  context.fillText(words, (frame.x(1) + frame.x(0)) / 2, frame.lower + 19);
}

function stairs(context, frame, buckets) {
  context.beginPath();
  [...buckets].reverse().forEach((bucket, number) => {
    const place = number ? "lineTo" : "moveTo";
    context[place](frame.x(bucket.to), frame.y(bucket.density));
    context.lineTo(frame.x(bucket.from), frame.y(bucket.density));
  });
}

function kept(context, frame, view, colours) {
  context.fillStyle = colours.keep;
  for (const bucket of view.buckets) {
    context.globalAlpha = 0.12 + 0.28 * Math.min(bucket.density / frame.top, 1);
    const y = frame.y(bucket.density);
    context.fillRect(frame.x(bucket.to), y, frame.x(bucket.from) - frame.x(bucket.to), frame.lower - y);
  }
  context.globalAlpha = 0.85;
  context.strokeStyle = colours.keep;
  context.lineWidth = 1.2;
  context.setLineDash([5, 4]);
  context.beginPath();
  view.curve.forEach(([time, density], number) => {
    context[number ? "lineTo" : "moveTo"](frame.x(time), frame.y(density));
  });
  context.stroke();
  context.setLineDash([]);
  context.globalAlpha = 1;
  stairs(context, frame, view.buckets);
  context.lineWidth = 2.2;
  context.stroke();
}

function labels(context, frame, view, colours) {
  context.font = "12px sans-serif";
  context.textAlign = "center";
  let free = frame.x(1);
  for (const bucket of [...view.buckets].reverse()) {
    const words = `${bucket.grid[0]}x${bucket.grid[1]}`;
    const half = context.measureText(words).width / 2 + 4;
    const middle = (frame.x(bucket.from) + frame.x(bucket.to)) / 2;
    const x = Math.min(Math.max(middle, frame.x(1) + half), frame.x(0) - half);
    if (x - half < free) continue;
    free = x + half;
    const y = frame.y(bucket.density);
    const below = y < MARGIN.top + 16;
    context.textBaseline = below ? "top" : "bottom";
    halo(context, words, x, below ? y + 5 : y - 4, colours);
  }
}

function halo(context, words, x, y, colours) {
  context.strokeStyle = colours.paper;
  context.lineWidth = 3;
  context.strokeText(words, x, y);
  context.fillStyle = colours.ink;
  context.fillText(words, x, y);
}

function dots(context, frame, view, chosen, colours) {
  const radius = view.evaluations.length > 60 ? 1.6 : 2.8;
  context.fillStyle = colours.dots;
  view.evaluations.forEach(({ time, density }, number) => {
    context.beginPath();
    context.arc(frame.x(time), frame.y(density), number === chosen ? radius + 2 : radius, 0, 7);
    context.fill();
  });
  if (chosen < 0) return;
  const { time, density } = view.evaluations[chosen];
  context.strokeStyle = colours.dots;
  context.lineWidth = 1;
  line(context, frame.x(time), frame.y(density), frame.x(time), frame.lower);
}

function handle(context, frame, [time, rate], chosen, colours) {
  context.beginPath();
  context.arc(frame.x(time), frame.y(1 - rate), chosen ? 7 : 5, 0, 7);
  context.fillStyle = chosen ? colours.dots : colours.paper;
  context.strokeStyle = chosen ? colours.ink : colours.keep;
  context.lineWidth = 2;
  context.fill();
  context.stroke();
}

function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, y0);
  context.lineTo(x1, y1);
  context.stroke();
}
