// The particles of one packet as paths: colour by diameter, drawing, and hit testing.

import { POINTS_PER_PIXEL, REJECTED, TOUCHES_BORDER } from "./packet.js";

const BINS = 24;
const BORDER_COLOUR = "#9aa4ad";

/** A blue-green-yellow scale whose lightness rises evenly: readable without colour vision. */
export function colourOf(fraction) {
  const t = Math.min(1, Math.max(0, fraction));
  return `hsl(${Math.round(225 - 170 * t)} ${Math.round(75 + 20 * t)}% ${Math.round(58 + 8 * t)}%)`;
}

/** Outlines of one frame, batched into one path a colour, in shown-image pixels. */
export class Particles {
  constructor(packet) {
    this.packet = packet;
    this.range = diameterRange(packet);
    this.paths = new Map();
    this.boxes = new Int16Array(4 * packet.ids.length);
    for (let i = 0; i < packet.ids.length; i += 1) this.#add(i);
  }

  get count() {
    return this.packet.ids.length;
  }

  /** Stroke and fill; `scale` is screen pixels per shown-image pixel. */
  draw(context, { scale, outlines, fill }) {
    context.lineWidth = 1.6 / scale;
    context.lineJoin = "round";
    for (const [key, path] of this.paths) {
      const border = key === "border";
      const colour = border ? BORDER_COLOUR : colourOf(key / (BINS - 1));
      context.setLineDash(border ? [4 / scale, 3 / scale] : []);
      if (fill > 0) {
        context.globalAlpha = fill;
        context.fillStyle = colour;
        context.fill(path);
      }
      if (outlines) {
        context.globalAlpha = 1;
        context.strokeStyle = colour;
        context.stroke(path);
      }
    }
    context.globalAlpha = 1;
    context.setLineDash([]);
  }

  /** Highlight one particle. */
  drawOne(context, index, scale) {
    context.lineWidth = 3 / scale;
    context.strokeStyle = "#ffffff";
    context.stroke(this.#pathOf(index));
  }

  /** Index of the particle under (x, y) in shown-image pixels, or -1. */
  at(x, y) {
    const px = x * POINTS_PER_PIXEL;
    const py = y * POINTS_PER_PIXEL;
    for (let i = 0; i < this.count; i += 1) {
      const [left, top, right, bottom] = this.boxes.subarray(4 * i, 4 * i + 4);
      if (px >= left && px <= right && py >= top && py <= bottom && this.#contains(i, px, py)) {
        return i;
      }
    }
    return -1;
  }

  #add(index) {
    const { offsets, points, flags, diameter } = this.packet;
    const box = [32767, 32767, -32768, -32768];
    for (let p = offsets[index]; p < offsets[index + 1]; p += 1) {
      box[0] = Math.min(box[0], points[2 * p]);
      box[1] = Math.min(box[1], points[2 * p + 1]);
      box[2] = Math.max(box[2], points[2 * p]);
      box[3] = Math.max(box[3], points[2 * p + 1]);
    }
    this.boxes.set(box, 4 * index);
    if (flags[index] & REJECTED) return;
    const key = flags[index] & TOUCHES_BORDER ? "border" : this.#bin(diameter[index]);
    if (!this.paths.has(key)) this.paths.set(key, new Path2D());
    this.#trace(this.paths.get(key), index);
  }

  #bin(diameter) {
    const [low, high] = this.range;
    return Math.round((BINS - 1) * (high > low ? (diameter - low) / (high - low) : 0.5));
  }

  #pathOf(index) {
    const path = new Path2D();
    this.#trace(path, index);
    return path;
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
      const [px, py, qx, qy] = [
        points[2 * p], points[2 * p + 1], points[2 * q], points[2 * q + 1],
      ];
      if (py > y !== qy > y && x < ((qx - px) * (y - py)) / (qy - py) + px) inside = !inside;
    }
    return inside;
  }
}

function diameterRange({ diameter, flags }) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = 0; i < diameter.length; i += 1) {
    if (flags[i] & (TOUCHES_BORDER | REJECTED) || !Number.isFinite(diameter[i])) continue;
    low = Math.min(low, diameter[i]);
    high = Math.max(high, diameter[i]);
  }
  return low <= high ? [low, high] : [0, 0];
}
