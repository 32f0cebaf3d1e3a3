// The frame as the operator sees it: image, outlines, scale bar, zoom, hover.
// A plain ES module: `new FrameViewer(canvas)` works on a static page too.

import { LiveFeed } from "./feed.js";
import { REJECTED, TOUCHES_BORDER } from "./packet.js";
import { Particles, colourOf } from "./particles.js";

export { LiveFeed } from "./feed.js";

const BACKGROUND = "#0b0e11";
const INK = "#e8edf2";
const FONT = "13px system-ui, sans-serif";

export class FrameViewer {
  constructor(canvas, { onHover = () => {}, onFrame = () => {}, onState = () => {} } = {}) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.onHover = onHover;
    this.onFrame = onFrame;
    this.onState = onState;
    this.options = { outlines: true, masks: false, opacity: 0.35, brightness: 1, contrast: 1 };
    this.frame = null; // {packet, image, particles}
    this.hovered = -1;
    this.fitted = true;
    this.view = { scale: 1, x: 0, y: 0 }; // shown-image px -> CSS px
    this.#listen();
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(canvas.parentElement ?? canvas);
    this.#resize();
  }

  /** Follow a live feed at `url`. */
  follow(url) {
    this.feed?.close();
    this.feed = new LiveFeed(url, {
      onPacket: (packet) => this.show(packet),
      onState: (state) => this.onState(state),
    });
  }

  /** Show one packet; resolves when it is drawn. */
  async show(packet) {
    const blob = new Blob([packet.jpeg], { type: "image/jpeg" });
    const image = await createImageBitmap(blob);
    this.frame?.image.close();
    const resized =
      this.frame?.image.width !== image.width || this.frame?.image.height !== image.height;
    this.frame = { packet, image, particles: new Particles(packet) };
    this.hovered = -1;
    if (resized || this.fitted) this.fit();
    else this.draw();
    this.onFrame(packet.header);
  }

  /** Change what is drawn: {outlines, masks, opacity, brightness, contrast}. */
  set(options) {
    Object.assign(this.options, options);
    this.draw();
  }

  /** Show the whole frame. */
  fit() {
    this.fitted = true;
    if (this.frame) {
      const { width, height } = this.frame.image;
      const box = this.#box();
      const scale = Math.min(box.width / width, box.height / height);
      this.view = {
        scale, x: (box.width - width * scale) / 2, y: (box.height - height * scale) / 2,
      };
    }
    this.draw();
  }

  destroy() {
    this.feed?.close();
    this.observer.disconnect();
  }

  draw() {
    const { context } = this;
    const box = this.#box();
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = BACKGROUND;
    context.fillRect(0, 0, box.width, box.height);
    if (!this.frame) return this.#say("Waiting for the first frame");
    this.#drawImage(ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.#drawScaleBar(box);
    this.#drawLegend(box);
    if (this.hovered >= 0) this.#drawTip(box);
    return undefined;
  }

  #drawImage(ratio) {
    const { context, view, frame, options } = this;
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    context.imageSmoothingEnabled = view.scale < 2; // zoomed in, a pixel is a pixel
    context.filter = `brightness(${options.brightness}) contrast(${options.contrast})`;
    context.drawImage(frame.image, 0, 0);
    context.filter = "none";
    frame.particles.draw(context, {
      scale: view.scale,
      outlines: options.outlines,
      fill: options.masks ? options.opacity : 0,
    });
    if (this.hovered >= 0) frame.particles.drawOne(context, this.hovered, view.scale);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  #drawScaleBar(box) {
    const { header } = this.frame.packet;
    const nativePerShown = header.width / header.shown_width;
    const perPixel = header.pixel_size_nm ? header.pixel_size_nm[1] : 1; // x: the bar is level
    const unitsPerCss = (perPixel * nativePerShown) / this.view.scale;
    const length = niceLength(unitsPerCss * box.width * 0.2);
    const width = length / unitsPerCss;
    const text = header.pixel_size_nm ? lengthText(length) : `${length} px (no pixel size)`;
    const { context } = this;
    const [x, y] = [16, box.height - 20];
    context.font = FONT;
    const panel = Math.max(width, context.measureText(text).width) + 20;
    context.fillStyle = "rgb(11 14 17 / 70%)";
    context.fillRect(x - 10, y - 24, panel, 38);
    context.fillStyle = INK;
    context.fillRect(x, y, width, 4);
    context.fillText(text, x, y - 7);
  }

  #drawLegend(box) {
    const { particles, packet } = this.frame;
    const [low, high] = particles.range;
    if (!(high > 0) || !this.options.outlines) return;
    const { context } = this;
    const [width, x, y] = [120, box.width - 150, box.height - 20];
    context.fillStyle = "rgb(11 14 17 / 70%)";
    context.fillRect(x - 12, y - 24, width + 34, 38);
    for (let i = 0; i < width; i += 2) {
      context.fillStyle = colourOf(i / width);
      context.fillRect(x + i, y, 2, 5);
    }
    context.font = FONT;
    context.fillStyle = INK;
    context.fillText(low.toPrecision(3), x, y - 7);
    const right = `${high.toPrecision(3)} ${packet.header.unit}`;
    context.fillText(right, x + width + 12 - context.measureText(right).width, y - 7);
  }

  #drawTip(box) {
    const { packet } = this.frame;
    const text = tipText(packet, this.hovered);
    const { context } = this;
    context.font = FONT;
    const width = context.measureText(text).width + 16;
    const x = Math.min(this.pointer.x + 14, box.width - width - 4);
    const y = Math.max(this.pointer.y - 14, 24);
    context.fillStyle = "rgb(20 26 32 / 92%)";
    context.fillRect(x, y - 18, width, 26);
    context.fillStyle = INK;
    context.fillText(text, x + 8, y);
  }

  #say(text) {
    const box = this.#box();
    this.context.font = "16px system-ui, sans-serif";
    this.context.fillStyle = "#8a96a3";
    const width = this.context.measureText(text).width;
    this.context.fillText(text, (box.width - width) / 2, box.height / 2);
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => this.#zoom(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#grab(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", () => { this.grabbed = null; });
    canvas.addEventListener("pointerleave", () => this.#hover(-1));
    canvas.addEventListener("dblclick", () => this.fit());
  }

  #zoom(event) {
    event.preventDefault();
    const { view } = this;
    const factor = Math.exp(-event.deltaY * 0.0015);
    const scale = Math.min(64, Math.max(0.02, view.scale * factor));
    const { offsetX: px, offsetY: py } = event;
    const grow = scale / view.scale;
    this.view = { scale, x: px - (px - view.x) * grow, y: py - (py - view.y) * grow };
    this.fitted = false;
    this.draw();
  }

  #grab(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.grabbed = { x: event.offsetX - this.view.x, y: event.offsetY - this.view.y };
  }

  #move(event) {
    this.pointer = { x: event.offsetX, y: event.offsetY };
    if (this.grabbed) {
      this.view.x = event.offsetX - this.grabbed.x;
      this.view.y = event.offsetY - this.grabbed.y;
      this.fitted = false;
      this.draw();
      return;
    }
    if (!this.frame) return;
    const x = (event.offsetX - this.view.x) / this.view.scale;
    const y = (event.offsetY - this.view.y) / this.view.scale;
    this.#hover(this.frame.particles.at(x, y));
  }

  #hover(index) {
    if (index < 0 && this.hovered < 0) return;
    this.hovered = index;
    this.draw();
    this.onHover(index < 0 ? null : tipText(this.frame.packet, index));
  }

  #resize() {
    const box = this.#box();
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    if (this.fitted) this.fit();
    else this.draw();
  }

  #box() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }
}

function tipText(packet, index) {
  const flags = packet.flags[index];
  const size = `${packet.diameter[index].toPrecision(4)} ${packet.header.unit}`;
  if (flags & REJECTED) return `#${packet.ids[index]}  rejected`;
  if (flags & TOUCHES_BORDER) return `#${packet.ids[index]}  cut by the border: not counted`;
  return `#${packet.ids[index]}  ${size}`;
}

/** The largest of 1, 2, 5 x 10^n that is not longer than `longest`. */
function niceLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  const step = [5, 2, 1].find((candidate) => candidate * power <= longest) ?? 1;
  return Number((step * power).toPrecision(1));
}

function lengthText(nm) {
  if (nm >= 1000) return `${nm / 1000} µm`;
  return nm < 1 ? `${Number((nm * 1000).toPrecision(2))} pm` : `${nm} nm`;
}
