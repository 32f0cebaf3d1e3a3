// The particles of one packet as paths: colour by diameter, drawing, and hit testing.

import { isDoubtful, POINTS_PER_PIXEL, REJECTED, TOUCHES_BORDER } from "./packet.js";

const BINS = 24;
const LINE_WIDTH = 1.5; // screen pixels, as the dashes are
// Thin grey alone is lost on a grey micrograph: dark between dots and dashes, it is seen on any.
const RIM = { rim: "#07090b", rimWidth: 2.5 };
const BORDER = { colour: "#9aa4ad", width: LINE_WIDTH, dash: [7, 4], ...RIM };
const DOUBTFUL = { colour: "#c6ced5", width: 1.25, dash: [2, 2], ...RIM };
const REJECTED_STYLE = { colour: "#ff8fb1", width: 2, dash: [2, 4], ...RIM };
const HOVER_COLOUR = "#ffffff";
const LETTING_GO = 0.1; // of what the range is too wide by, a frame

// Lightness rises evenly from blue to yellow, as viridis does, so that it reads without colour
// vision; it begins brighter than viridis, whose violet is lost on a dark micrograph.
const STOPS = [[98, 128, 255], [52, 172, 214], [60, 203, 150], [158, 218, 70], [253, 231, 60]];

/** The colour of a fraction, 0..1, of the scale. */
export function colourOf(fraction) {
  const t = Math.min(1, Math.max(0, fraction)) * (STOPS.length - 1);
  const below = Math.min(STOPS.length - 2, Math.floor(t));
  const mixed = STOPS[below].map((low, i) => Math.round(low + (t - below) * (STOPS[below + 1][i] - low)));
  return `rgb(${mixed.join(" ")})`;
}

/** Which diameter has which colour; follows the frames calmly, so that colours do not flicker. */
export class ColourScale {
  constructor() {
    this.range = [0, 0];
    this.kind = "";
  }

  follow(packet) {
    const seen = diameterRange(packet);
    if (!seen) return;
    const kind = `${packet.header.session_id} ${packet.header.unit}`;
    if (kind !== this.kind) {
      this.kind = kind;
      this.range = seen;
      return;
    }
    const [low, high] = this.range;
    this.range = [
      Math.min(seen[0], low + LETTING_GO * (seen[0] - low)),
      Math.max(seen[1], high + LETTING_GO * (seen[1] - high)),
    ];
  }

  bin(diameter) {
    const [low, high] = this.range;
    const fraction = high > low ? (diameter - low) / (high - low) : 0.5;
    return Math.round((BINS - 1) * Math.min(1, Math.max(0, fraction)));
  }
}

/** Outlines of one frame, batched into one path a colour, in picture pixels. */
export class Particles {
  constructor(packet, colours) {
    this.packet = packet;
    this.colours = colours;
    this.paths = new Map();
    this.boxes = new Int16Array(4 * packet.ids.length);
    for (let i = 0; i < packet.ids.length; i += 1) this.#add(i);
  }

  get count() {
    return this.packet.ids.length;
  }

  /** Stroke and fill; `scale` is screen pixels per picture pixel. */
  draw(context, { scale, outlines, fill }) {
    context.lineJoin = "round";
    for (const [key, path] of this.paths) {
      const style = styleOf(key);
      if (fill > 0 && key !== "rejected") {
        context.globalAlpha = fill;
        context.fillStyle = style.colour;
        context.fill(path);
      }
      context.globalAlpha = 1;
      if (outlines) strokeAs(context, path, style, scale);
    }
  }

  /** Highlight one particle. */
  drawOne(context, index, scale) {
    const path = new Path2D();
    this.#trace(path, index);
    context.lineWidth = 2.5 / scale;
    context.strokeStyle = HOVER_COLOUR;
    context.stroke(path);
  }

  /** Index of the particle under (x, y) in picture pixels, or -1. */
  at(x, y) {
    const { boxes } = this;
    const px = x * POINTS_PER_PIXEL;
    const py = y * POINTS_PER_PIXEL;
    for (let i = 0, b = 0; i < this.count; i += 1, b += 4) {
      const near = px >= boxes[b] && py >= boxes[b + 1] && px <= boxes[b + 2] && py <= boxes[b + 3];
      if (near && this.#contains(i, px, py)) return i;
    }
    return -1;
  }

  /** Indices, the largest outline first. */
  bySize() {
    this.order ??= [...this.packet.ids.keys()].sort((a, b) => this.#area(b) - this.#area(a));
    return this.order;
  }

  /** Where a particle is: its box's {centre, size} in picture pixels. */
  place(index) {
    const [left, top, right, bottom] = this.boxes.subarray(4 * index, 4 * index + 4);
    return {
      centre: { x: (left + right) / 2 / POINTS_PER_PIXEL, y: (top + bottom) / 2 / POINTS_PER_PIXEL },
      size: Math.max(1, right - left, bottom - top) / POINTS_PER_PIXEL,
    };
  }

  #area(index) {
    const [left, top, right, bottom] = this.boxes.subarray(4 * index, 4 * index + 4);
    return (right - left) * (bottom - top);
  }

  #add(index) {
    const { offsets, points } = this.packet;
    const box = [32767, 32767, -32768, -32768];
    for (let p = offsets[index]; p < offsets[index + 1]; p += 1) {
      box[0] = Math.min(box[0], points[2 * p]);
      box[1] = Math.min(box[1], points[2 * p + 1]);
      box[2] = Math.max(box[2], points[2 * p]);
      box[3] = Math.max(box[3], points[2 * p + 1]);
    }
    this.boxes.set(box, 4 * index);
    const key = this.#key(index);
    if (!this.paths.has(key)) this.paths.set(key, new Path2D());
    this.#trace(this.paths.get(key), index);
  }

  #key(index) {
    const { flags, diameter } = this.packet;
    if (flags[index] & REJECTED) return "rejected";
    if (isDoubtful(this.packet, index)) return "doubtful";
    return flags[index] & TOUCHES_BORDER ? "border" : this.colours.bin(diameter[index]);
  }

  #trace(path, index) {
    const { offsets, points } = this.packet;
    for (let p = offsets[index]; p < offsets[index + 1]; p += 1) {
      const x = points[2 * p] / POINTS_PER_PIXEL;
      const y = points[2 * p + 1] / POINTS_PER_PIXEL;
      if (p === offsets[index]) path.moveTo(x, y);
      else path.lineTo(x, y);
    }
    path.closePath();
  }

  #contains(index, x, y) {
    const { offsets, points } = this.packet;
    const first = offsets[index];
    const last = offsets[index + 1] - 1;
    let inside = false;
    for (let p = first, q = last; p <= last; q = p, p += 1) {
      const [px, py] = [points[2 * p], points[2 * p + 1]];
      const [qx, qy] = [points[2 * q], points[2 * q + 1]];
      if (py > y !== qy > y && x < ((qx - px) * (y - py)) / (qy - py) + px) inside = !inside;
    }
    return inside;
  }
}

/** Stroke `path` as the outline of a doubtful particle. */
export function strokeDoubtful(context, path) {
  strokeAs(context, path, DOUBTFUL, 1);
}

function strokeAs(context, path, { colour, width, dash, rim, rimWidth }, scale) {
  if (rim) {
    context.lineWidth = rimWidth / scale;
    context.strokeStyle = rim;
    context.stroke(path);
  }
  context.lineWidth = width / scale;
  context.setLineDash(dash.map((length) => length / scale));
  context.strokeStyle = colour;
  context.stroke(path);
  context.setLineDash([]);
}

function styleOf(key) {
  if (key === "doubtful") return DOUBTFUL;
  if (key === "border") return BORDER;
  if (key === "rejected") return REJECTED_STYLE;
  return { colour: colourOf(key / (BINS - 1)), width: LINE_WIDTH, dash: [] };
}

/** Smallest and largest diameter that has a colour, or null where none has. */
function diameterRange(packet) {
  const { diameter, flags } = packet;
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < diameter.length; i += 1) {
    if (flags[i] & (TOUCHES_BORDER | REJECTED) || isDoubtful(packet, i)) continue;
    if (!Number.isFinite(diameter[i])) continue;
    low = Math.min(low, diameter[i]);
    high = Math.max(high, diameter[i]);
  }
  return low <= high ? [low, high] : null;
}
