/**
 * The points of a custom curve, edited on the canvas with mouse and keyboard. They are stored as the text of the
 * widget `points`: "0.3:0.7, 0.6:0.8", pairs of time and rate.
 */

const GRAB = 12; // pixels around a point
const GAP = 0.01; // between the times of two points

/** Pairs [time, rate] by time; what is no pair of numbers is left out, the server tells of it. */
export function readPoints(text) {
  const pairs = String(text).split(/[,\n]/).map((part) => part.split(":").map(Number));
  return pairs.filter((pair) => pair.length === 2 && pair.every(Number.isFinite)).sort((a, b) => a[0] - b[0]);
}

export function writePoints(points) {
  return points.map(([time, rate]) => `${+time.toFixed(3)}:${+rate.toFixed(3)}`).join(", ");
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

/** Lets people edit. `host` has active(), points(), store(points), frame, limits(), stored() and redraw(). */
export class PointEditor {
  constructor(canvas, host) {
    this.canvas = canvas;
    this.host = host;
    this.chosen = -1;
    this.dragged = false;
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => this.release());
    canvas.addEventListener("contextmenu", (event) => this.remove(event));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("blur", () => this.choose(-1));
  }

  choose(number) {
    this.chosen = number;
    this.host.redraw();
  }

  /** Canvas pixels of a mouse event; the canvas may be zoomed with the graph. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = this.canvas.clientWidth / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  near(x, y) {
    const { frame } = this.host;
    const far = this.host.points().map(([time, rate]) => Math.hypot(frame.x(time) - x, frame.y(1 - rate) - y));
    const best = far.indexOf(Math.min(...far));
    return best >= 0 && far[best] <= GRAB ? best : -1;
  }

  press(event) {
    if (!this.host.active() || event.button !== 0) return;
    event.stopPropagation();
    const [x, y] = this.at(event);
    this.canvas.focus({ preventScroll: true });
    let number = this.near(x, y);
    if (number < 0 && this.host.frame.inside(x, y)) {
      number = this.add(this.host.frame.time(x), 1 - this.host.frame.density(y));
    }
    if (number < 0) return;
    this.dragged = true;
    this.canvas.setPointerCapture(event.pointerId);
    this.choose(number);
  }

  drag(event) {
    if (!this.dragged) return;
    event.stopPropagation();
    const [x, y] = this.at(event);
    this.move(this.chosen, this.host.frame.time(x), 1 - this.host.frame.density(y));
  }

  release() {
    if (this.dragged) this.host.stored();
    this.dragged = false;
  }

  remove(event) {
    if (!this.host.active()) return;
    const number = this.near(...this.at(event));
    if (number < 0) return;
    event.preventDefault();
    event.stopPropagation();
    this.drop(number);
    this.host.stored();
  }

  key(event) {
    if (!this.host.active()) return;
    const points = this.host.points();
    const step = event.shiftKey ? 0.05 : 0.01;
    const move = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    const next = this.chosen + (event.shiftKey ? 1 : -1); // Tab goes the way of the sampling, from noise to image
    if (event.key === "Tab") {
      const other = this.chosen < 0 ? points.length - 1 : next;
      if (this.chosen < 0 && event.shiftKey) return;
      if (!points[other]) return; // past the ends the focus goes on through the page
      this.choose(other);
    } else if (move && points[this.chosen]) {
      this.move(this.chosen, points[this.chosen][0] + move[0], points[this.chosen][1] + move[1]);
    } else if (["Delete", "Backspace"].includes(event.key) && points[this.chosen]) {
      this.drop(this.chosen);
    } else if (["Insert", "Enter", "+"].includes(event.key)) {
      this.choose(this.addInGap());
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    if (event.key !== "Tab") this.host.stored();
  }

  move(number, time, rate) {
    const points = this.host.points();
    const { low, high } = this.host.limits();
    const before = number > 0 ? points[number - 1][0] : 0;
    const after = number < points.length - 1 ? points[number + 1][0] : 1;
    points[number] = [clamp(time, before + GAP, after - GAP), clamp(rate, low, high)];
    this.host.store(points);
  }

  add(time, rate) {
    const points = this.host.points();
    const { low, high } = this.host.limits();
    const place = clamp(time, GAP, 1 - GAP);
    if (points.some((point) => Math.abs(point[0] - place) < GAP)) return -1;
    const number = points.filter((point) => point[0] < place).length;
    points.splice(number, 0, [place, clamp(rate, low, high)]);
    this.host.store(points);
    return number;
  }

  /** A point in the widest gap, on the line between its neighbours. */
  addInGap() {
    const { low, high } = this.host.limits();
    const all = [[0, low], ...this.host.points(), [1, high]];
    let best = 0;
    for (let i = 0; i + 1 < all.length; i++) {
      if (all[i + 1][0] - all[i][0] > all[best + 1][0] - all[best][0]) best = i;
    }
    return this.add((all[best][0] + all[best + 1][0]) / 2, (all[best][1] + all[best + 1][1]) / 2);
  }

  drop(number) {
    const points = this.host.points();
    points.splice(number, 1);
    this.host.store(points);
    this.choose(Math.min(number, points.length - 1));
  }
}
