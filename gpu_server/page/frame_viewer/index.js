// The frame as the operator sees it: image, outlines, scale bar, zoom, hover, pick.
// A plain ES module: `new FrameViewer(canvas)` works on a static page too.

import { LiveFeed } from "./feed.js";
import { autoLevels } from "./levels.js";
import {
  drawDoubtfulHint, drawLegend, drawNotice, drawScaleBar, drawTip, particleText,
} from "./overlay.js";
import { REJECTED } from "./packet.js";
import { ColourScale, Particles } from "./particles.js";

export { LiveFeed } from "./feed.js";
export { Film } from "./film.js";
export { wishOf } from "./keys.js";
export { Verdicts } from "./verdicts.js";

const LARGEST_SCALE = 64; // screen pixels a picture pixel
const SMALLEST_SHARE = 0.25; // of the scale at which the whole frame fits
const CLICK_PX = 4; // a hand that holds still moves less
const FLASH_MS = 4000;
const CLOSE_UP = 6; // times a particle's size is what is shown around one that is gone to

const nothing = () => {};

export class FrameViewer {
  constructor(
    canvas,
    { onFrame = nothing, onHover = nothing, onView = nothing, onState = nothing, onPick = nothing } = {},
  ) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    Object.assign(this, { onFrame, onHover, onView, onState, onPick });
    this.options = { outlines: true, masks: false, opacity: 0.35, brightness: 1, contrast: 1 };
    this.colours = new ColourScale();
    this.frame = null; // {packet, image, particles}
    this.pointer = null; // in CSS px of the canvas, while it is over it
    this.grabbed = null;
    this.hovered = -1;
    this.chosen = 0; // number of the particle that the keyboard is on; 0: none
    this.connection = ""; // why there is no live picture
    this.said = ""; // about the frame on the screen
    this.flashed = "";
    this.fitted = true;
    this.view = { scale: 1, x: 0, y: 0 }; // picture px -> CSS px
    this.#listen();
    this.observer = new ResizeObserver(() => this.#resize());
    this.observer.observe(canvas);
  }

  /** Follow a live feed at `url`. */
  follow(url) {
    this.feed?.close();
    this.feed = new LiveFeed(url, {
      onPacket: (packet) => this.show(packet),
      onState: (state) => this.hear(state),
    });
  }

  /** Show one packet; resolves with whether it was drawn, or a later one overtook it. */
  async show(packet) {
    const turn = (this.turn = (this.turn ?? 0) + 1);
    const image = await createImageBitmap(new Blob([packet.jpeg], { type: "image/jpeg" }));
    if (turn !== this.turn) { // a later packet was unpacked sooner: this one is past
      image.close();
      return false;
    }
    const before = this.frame?.image;
    const resized = before?.width !== image.width || before?.height !== image.height;
    before?.close();
    this.colours.follow(packet);
    if (this.frame?.packet.header.frame_id !== packet.header.frame_id) this.chosen = 0;
    this.frame = { packet, image, particles: new Particles(packet, this.colours) };
    this.said = packet.header.model_id ? "" : "This frame waits for its result";
    if (resized || this.fitted) this.#fitView();
    this.#point(); // another particle may lie under the resting pointer now
    this.draw();
    this.onFrame(packet.header);
    return true;
  }

  /** Change what is drawn: {outlines, masks, opacity, brightness, contrast}. */
  set(options) {
    Object.assign(this.options, options);
    this.draw();
  }

  /** Draw the shown packet anew after its flags have changed. */
  restyle(packet) {
    if (this.frame?.packet !== packet) return;
    this.frame.particles = new Particles(packet, this.colours);
    this.#point();
    this.draw();
    this.onFrame(packet.header);
  }

  /** How many particles of the shown frame are taken out. */
  get rejected() {
    const flags = this.frame?.packet.flags ?? [];
    return flags.reduce((count, flag) => count + (flag & REJECTED ? 1 : 0), 0);
  }

  /** Go to the next (1) or previous (-1) particle, the largest first; returns what to announce. */
  choose(direction) {
    if (!this.frame?.particles.count) return "no particles on this frame";
    const { packet, particles } = this.frame;
    const order = particles.bySize();
    const at = order.findIndex((index) => packet.ids[index] === this.chosen);
    const start = direction > 0 ? 0 : order.length - 1;
    const next = at < 0 ? start : (at + direction + order.length) % order.length;
    this.chosen = packet.ids[order[next]];
    this.#reveal(order[next]);
    return `particle ${particleText(packet, order[next])}, ${next + 1} of ${order.length}`;
  }

  /** Let go of the chosen particle. */
  unchoose() {
    this.chosen = 0;
    this.draw();
  }

  /** Index of the chosen particle, or -1. */
  get chosenIndex() {
    return this.chosen ? this.frame.packet.ids.indexOf(this.chosen) : -1;
  }

  /** Brightness and contrast that spread what is in sight over the whole range. */
  autoLevels() {
    return this.frame ? autoLevels(this.frame.image, this.#sight()) : null;
  }

  /** Say something over the picture until told otherwise; `instead` of it where it is long gone. */
  say(text, instead = false) {
    this.said = text;
    if (instead && this.frame) {
      this.frame.image.close();
      this.frame = null;
      this.hovered = -1;
    }
    this.draw();
  }

  /** Say something over the picture for a moment. */
  flash(text) {
    this.flashed = text;
    clearTimeout(this.flashing);
    this.flashing = setTimeout(() => { this.flashed = ""; this.draw(); }, FLASH_MS);
    this.draw();
  }

  /** Hear how the live feed stands. */
  hear(state) {
    const lost = state === "disconnected" ? "Connection lost; trying again" : state;
    this.connection = state === "connected" ? "" : lost;
    this.draw();
    this.onState(state);
  }

  /** Show the whole frame. */
  fit() {
    this.#fitView();
    this.#point();
    this.draw();
  }

  destroy() {
    this.feed?.close();
    clearTimeout(this.flashing);
    this.observer.disconnect();
    this.frame?.image.close();
    this.frame = null;
  }

  draw() {
    const { context, frame, options } = this;
    const box = this.#box();
    const ratio = window.devicePixelRatio || 1;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, box.width, box.height); // the page's colour may let through
    context.fillStyle = getComputedStyle(this.canvas).backgroundColor;
    context.fillRect(0, 0, box.width, box.height);
    if (frame) {
      this.#drawPicture();
      context.setTransform(ratio, 0, 0, ratio, 0, 0);
      const area = this.#visible(box);
      const { header } = frame.packet;
      drawScaleBar(context, area, { header, scale: this.view.scale });
      if (options.outlines || options.masks) {
        drawLegend(context, area, { range: this.colours.range, unit: header.unit });
        if (header.doubtful) drawDoubtfulHint(context, area);
      }
      const chosen = this.chosenIndex;
      if (this.hovered >= 0) {
        drawTip(context, box, this.pointer, particleText(frame.packet, this.hovered));
      } else if (chosen >= 0) {
        drawTip(context, box, this.#onScreen(chosen), particleText(frame.packet, chosen));
      }
    }
    const waiting = frame ? "" : "Waiting for the first frame";
    const notice = this.flashed || this.connection || this.said || waiting;
    if (notice) drawNotice(context, box, notice, { centred: !frame });
  }

  #drawPicture() {
    const { context, view, frame, options } = this;
    context.translate(view.x, view.y);
    context.scale(view.scale, view.scale);
    context.imageSmoothingEnabled = view.scale < 2; // zoomed in, a pixel is a pixel
    context.imageSmoothingQuality = "high";
    if (options.brightness !== 1 || options.contrast !== 1) {
      context.filter = `brightness(${options.brightness}) contrast(${options.contrast})`;
    }
    context.drawImage(frame.image, 0, 0);
    context.filter = "none";
    frame.particles.draw(context, {
      scale: view.scale,
      outlines: options.outlines,
      fill: options.masks ? options.opacity : 0,
    });
    for (const index of new Set([this.hovered, this.chosenIndex])) {
      if (index >= 0) frame.particles.drawOne(context, index, view.scale);
    }
  }

  #listen() {
    const { canvas } = this;
    canvas.addEventListener("wheel", (event) => this.#zoom(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.#grab(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#release(event));
    canvas.addEventListener("pointercancel", () => this.#release());
    canvas.addEventListener("pointerleave", () => this.#leave());
    canvas.addEventListener("dblclick", () => this.fit());
  }

  #zoom(event) {
    event.preventDefault();
    if (!this.frame) return;
    const { view } = this;
    // Firefox counts lines where others count pixels.
    const pixels = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 33 * event.deltaY : event.deltaY;
    const smallest = SMALLEST_SHARE * this.#fittingScale();
    const wanted = view.scale * Math.exp(-0.0015 * pixels);
    const scale = Math.min(LARGEST_SCALE, Math.max(smallest, wanted));
    const grow = scale / view.scale;
    const { offsetX: x, offsetY: y } = event; // the point under the pointer stays under it
    this.#look({ scale, x: x - (x - view.x) * grow, y: y - (y - view.y) * grow });
  }

  #grab(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.grabbed = {
      x: event.offsetX - this.view.x, y: event.offsetY - this.view.y,
      from: { x: event.offsetX, y: event.offsetY }, moved: false,
    };
  }

  #move(event) {
    this.pointer = { x: event.offsetX, y: event.offsetY };
    if (this.grabbed && this.frame) {
      const { x, y, from } = this.grabbed;
      const far = Math.hypot(this.pointer.x - from.x, this.pointer.y - from.y);
      if (!this.grabbed.moved && far < CLICK_PX) return;
      this.grabbed.moved = true;
      this.canvas.style.cursor = "grabbing";
      this.#look({ scale: this.view.scale, x: this.pointer.x - x, y: this.pointer.y - y });
    } else if (this.#point() || this.hovered >= 0) {
      this.draw();
    }
  }

  #release(event) {
    const clicked = event && this.grabbed && !this.grabbed.moved;
    this.grabbed = null;
    this.canvas.style.cursor = "";
    this.#point();
    if (clicked && this.hovered >= 0) this.onPick(this.frame.packet, this.hovered);
  }

  /** Bring a particle into sight, zooming in where it would be a speck. */
  #reveal(index) {
    const { scale, x, y } = this.view;
    const box = this.#box();
    const { centre, size } = this.frame.particles.place(index);
    const onScreen = { x: x + scale * centre.x, y: y + scale * centre.y };
    const inside = onScreen.x > 40 && onScreen.y > 40
      && onScreen.x < box.width - 40 && onScreen.y < box.height - 40;
    if (inside && size * scale > 8) {
      this.draw();
      return;
    }
    const close = Math.min(LARGEST_SCALE, Math.min(box.width, box.height) / (CLOSE_UP * size));
    const zoomed = size * scale > 8 ? scale : close;
    this.#look({
      scale: zoomed, x: box.width / 2 - zoomed * centre.x, y: box.height / 2 - zoomed * centre.y,
    });
  }

  #onScreen(index) {
    const { centre, size } = this.frame.particles.place(index);
    const { scale, x, y } = this.view;
    return { x: x + scale * (centre.x + size / 2), y: y + scale * (centre.y - size / 4) };
  }

  /** The part of the picture that is on the screen, in its pixels. */
  #sight() {
    const { x, y, width, height } = this.#visible(this.#box());
    const { scale } = this.view;
    return {
      x: (x - this.view.x) / scale, y: (y - this.view.y) / scale,
      width: width / scale, height: height / scale,
    };
  }

  #leave() {
    this.pointer = null;
    if (this.#point()) this.draw();
  }

  /** Look at another part of the frame; some of it always stays in sight. */
  #look({ scale, x, y }) {
    const { width, height } = this.frame.image;
    const box = this.#box();
    const keep = 48;
    this.view = {
      scale,
      x: Math.min(box.width - keep, Math.max(keep - width * scale, x)),
      y: Math.min(box.height - keep, Math.max(keep - height * scale, y)),
    };
    this.fitted = false;
    this.onView(this.view);
    this.#point();
    this.draw();
  }

  #fitView() {
    this.fitted = true;
    if (!this.frame) return;
    const { width, height } = this.frame.image;
    const box = this.#box();
    const scale = this.#fittingScale();
    this.view = { scale, x: (box.width - width * scale) / 2, y: (box.height - height * scale) / 2 };
    this.onView(this.view);
  }

  #fittingScale() {
    const { width, height } = this.frame.image;
    const box = this.#box();
    return Math.max(1e-3, Math.min(box.width / width, box.height / height));
  }

  /** Find the particle under the pointer; returns whether it is another one than before. */
  #point() {
    const { pointer, frame, view, hovered } = this;
    this.hovered =
      pointer && frame && !this.grabbed
        ? frame.particles.at((pointer.x - view.x) / view.scale, (pointer.y - view.y) / view.scale)
        : -1;
    this.onHover(this.hovered < 0 ? "" : particleText(frame.packet, this.hovered));
    return this.hovered !== hovered;
  }

  #resize() {
    const box = this.#box();
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.max(1, Math.round(box.width * ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * ratio));
    if (this.fitted) this.#fitView();
    this.draw(); // a resized canvas is empty
  }

  #visible(box) {
    const { view, frame } = this;
    const left = Math.max(0, view.x);
    const top = Math.max(0, view.y);
    const right = Math.min(box.width, view.x + frame.image.width * view.scale);
    const bottom = Math.min(box.height, view.y + frame.image.height * view.scale);
    return { x: left, y: top, width: right - left, height: bottom - top };
  }

  #box() {
    return { width: this.canvas.clientWidth, height: this.canvas.clientHeight };
  }
}
