// What is written over the picture: scale bar, diameter legend, the particle under the pointer.

import { isDoubtful, REJECTED, TOUCHES_BORDER } from "./packet.js";
import { colourOf, strokeDoubtful } from "./particles.js";

const INK = "#e6ebf0";
const FAINT = "#8e9aa6";
const PLATE = "rgb(7 9 11 / 72%)";
const MARGIN = 14;
const PAD = 10;
const PLATE_HEIGHT = 40;
const LEGEND_WIDTH = 148;
const DOUBT_HEIGHT = 26;
const SAMPLE = 22;

/** A bar of round length at the bottom left of `area`, the visible part of the picture. */
export function drawScaleBar(context, area, { header, scale }) {
  const known = header.pixel_size_nm;
  const perShownPixel = (known ? known[1] : 1) * (header.width / header.shown_width); // x: it lies level
  const perScreenPixel = perShownPixel / scale;
  const length = niceLength(perScreenPixel * Math.min(220, 0.3 * area.width));
  const width = length / perScreenPixel;
  const text = known ? lengthText(length) : `${length} px`;
  context.font = font(context, 13);
  const plate = Math.max(width, context.measureText(text).width) + 2 * PAD;
  if (plate + 2 * MARGIN > area.width) return;
  const [left, top] = [area.x + MARGIN, area.y + area.height - MARGIN - PLATE_HEIGHT];
  drawPlate(context, left, top, plate, PLATE_HEIGHT);
  context.fillStyle = INK;
  context.fillText(text, left + PAD, top + 19);
  context.fillRect(left + PAD, top + 26, width, 4);
}

/** Which colour is which diameter, at the bottom right of `area`. */
export function drawLegend(context, area, { range: [low, high], unit }) {
  const plate = LEGEND_WIDTH + 2 * PAD;
  if (!(high > low) || area.width < 2.6 * plate) return;
  const left = area.x + area.width - MARGIN - plate;
  const top = area.y + area.height - MARGIN - PLATE_HEIGHT;
  drawPlate(context, left, top, plate, PLATE_HEIGHT);
  context.font = font(context, 12);
  context.fillStyle = INK;
  context.fillText(plain(low), left + PAD, top + 18);
  context.textAlign = "right";
  context.fillText(`${plain(high)} ${unit}`, left + PAD + LEGEND_WIDTH, top + 18);
  context.textAlign = "center";
  context.fillStyle = FAINT;
  context.fillText("diameter", left + PAD + LEGEND_WIDTH / 2 - 8, top + 18);
  context.textAlign = "left";
  for (let x = 0; x < LEGEND_WIDTH; x += 1) {
    context.fillStyle = colourOf(x / (LEGEND_WIDTH - 1));
    context.fillRect(left + PAD + x, top + 26, 1.5, 5);
  }
}

/** What a grey, dotted outline means, above the legend. */
export function drawDoubtfulHint(context, area) {
  const text = "doubtful: probably no particle, counted like the others";
  context.font = font(context, 12);
  const plate = SAMPLE + context.measureText(text).width + 3 * PAD;
  if (area.width < plate + 2 * MARGIN) return;
  const left = area.x + area.width - MARGIN - plate;
  const top = area.y + area.height - MARGIN - PLATE_HEIGHT - 6 - DOUBT_HEIGHT;
  drawPlate(context, left, top, plate, DOUBT_HEIGHT);
  const sample = new Path2D();
  sample.moveTo(left + PAD, top + DOUBT_HEIGHT / 2);
  sample.lineTo(left + PAD + SAMPLE, top + DOUBT_HEIGHT / 2);
  strokeDoubtful(context, sample);
  context.fillStyle = INK;
  context.fillText(text, left + SAMPLE + 2 * PAD, top + 17);
}

/** `text` beside the pointer, kept inside `box`. */
export function drawTip(context, box, pointer, text) {
  context.font = font(context, 13);
  const width = context.measureText(text).width + 2 * PAD;
  const left = Math.max(4, Math.min(pointer.x + 14, box.width - width - 4));
  const top = Math.max(4, pointer.y - 36);
  drawPlate(context, left, top, width, 28, "rgb(14 18 22 / 94%)");
  context.fillStyle = INK;
  context.fillText(text, left + PAD, top + 19);
}

/** One line on a plate at the top middle, or in the middle where there is no picture. */
export function drawNotice(context, box, text, { centred }) {
  context.font = font(context, 14);
  const width = context.measureText(text).width + 2 * PAD;
  const [left, top] = [(box.width - width) / 2, centred ? box.height / 2 - 15 : MARGIN];
  if (!centred) drawPlate(context, left, top, width, 30);
  context.fillStyle = centred ? FAINT : INK;
  context.fillText(text, left + PAD, top + 20);
}

/** Say what the particle is, as the operator asks for it. */
export function particleText(packet, index) {
  const [flags, name] = [packet.flags[index], `#${packet.ids[index]}`];
  if (flags & REJECTED) return `${name}  rejected; click to take it back`;
  const doubt = isDoubtful(packet, index)
    ? `  doubtful, ${packet.confidence[index]} % likely a particle`
    : "";
  if (flags & TOUCHES_BORDER) return `${name}  cut by the border, not counted${doubt}`;
  return `${name}  ${plain(packet.diameter[index], 4)} ${packet.header.unit}${doubt}`;
}

function drawPlate(context, left, top, width, height, colour = PLATE) {
  context.fillStyle = colour;
  context.beginPath();
  context.roundRect(left, top, width, height, 6);
  context.fill();
}

/** The page's own typeface, which the canvas does not inherit. */
function font(context, size) {
  return `${size}px ${getComputedStyle(context.canvas).fontFamily}`;
}

/** The largest of 1, 2, 5 x 10^n that is not longer than `longest`. */
export function niceLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  const step = [5, 2, 1].find((candidate) => candidate * power <= longest) ?? 1;
  return Number((step * power).toPrecision(1));
}

export function lengthText(nm) {
  if (nm >= 1000) return `${nm / 1000} µm`;
  return nm < 0.1 ? `${Number((nm * 1000).toPrecision(2))} pm` : `${nm} nm`;
}

/** `digits` significant digits, without an exponent. */
function plain(value, digits = 3) {
  return Number(value.toPrecision(digits)).toLocaleString("en", {
    maximumFractionDigits: 6, minimumSignificantDigits: digits, useGrouping: false,
  });
}
