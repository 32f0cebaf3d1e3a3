// Two models on one frame: incumbent left of the wipe, candidate right of it.

const POINTS_PER_PIXEL = 8;
const COLOURS = ["#56b4e9", "#ffb020"]; // told apart without colour vision, and on any grey
const RIM = "rgb(7 9 11 / 70%)";
const PLATE = "rgb(7 9 11 / 78%)";
const NEAR = 14; // CSS px around the wipe that take hold of it
const STEP = 2; // percent an arrow key moves the wipe
const LARGEST = 32;

const template = `
<div class="emc-compare">
  <div class="emc-compare-screen">
    <canvas role="img" :aria-label="label"></canvas>
  </div>
  <label class="emc-wipe">
    <span>Wipe</span>
    <input type="range" min="0" max="100" step="1" :value="wipe" data-part="wipe"
           aria-label="wipe between the two models" :aria-valuetext="wipeText" @input="setWipe">
    <button type="button" :aria-pressed="both" @click="toggleBoth" title="both outlines at once (B)">
      {{ both ? "Wipe" : "Both" }}
    </button>
  </label>
</div>`;

export default {
  template,
  props: { frame: Object },
  data: () => ({ wipe: 50, both: false }),
  computed: {
    label() {
      if (!this.frame) return "no frame yet";
      const [a, b] = this.frame.looks;
      return `frame ${this.frame.number}: ${a.particles} particles by ${a.name}, ${b.particles} by ${b.name}`;
    },
    wipeText() {
      return this.frame ? `${this.wipe} % ${this.frame.looks[0].name}` : "";
    },
  },
  mounted() {
    this.canvas = this.$el.querySelector("canvas");
    this.context = this.canvas.getContext("2d");
    this.view = { scale: 1, x: 0, y: 0 };
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.canvas);
    this.onKey = (event) => {
      if (event.target.closest?.("input:not([type=range]), textarea, .q-select")) return;
      const move = { ArrowLeft: -STEP, ArrowRight: STEP }[event.key];
      if (move) {
        event.preventDefault(); // the slider would move it once more
        this.wipe = Math.max(0, Math.min(100, this.wipe + move));
      } else if (event.key === "PageUp" || event.key === "PageDown") {
        event.preventDefault(); // it would move the slider
        this.$emit("step", event.key === "PageUp" ? -1 : 1);
      } else if (event.key === "b" || event.key === "B") this.toggleBoth();
    };
    document.addEventListener("keydown", this.onKey);
    this.canvas.addEventListener("pointerdown", (event) => this.grab(event));
    this.canvas.addEventListener("pointermove", (event) => this.drag(event));
    this.canvas.addEventListener("pointerup", () => { this.held = null; });
    this.canvas.addEventListener("wheel", (event) => this.zoom(event), { passive: false });
    this.canvas.addEventListener("dblclick", () => { this.fit(); this.draw(); });
    this.load();
  },
  unmounted() {
    document.removeEventListener("keydown", this.onKey);
    this.observer.disconnect();
    this.image?.close();
  },
  watch: {
    frame() { this.load(); },
    wipe() { this.draw(); },
    both() { this.draw(); },
  },
  methods: {
    setWipe(event) { this.wipe = Number(event.target.value); },
    toggleBoth() { this.both = !this.both; },

    async load() {
      const frame = this.frame;
      if (!frame) {
        this.shown = null;
        this.draw();
        return;
      }
      const answer = await fetch(frame.picture);
      if (!answer.ok || frame !== this.frame) return; // another one was asked for meanwhile
      const image = await createImageBitmap(await answer.blob());
      if (frame !== this.frame) { image.close(); return; }
      const resized = image.width !== this.image?.width || image.height !== this.image?.height;
      this.image?.close();
      this.image = image;
      this.shown = { paths: frame.looks.map(pathOf), looks: frame.looks };
      if (resized) this.fit();
      this.draw();
      this.$el.dataset.frame = frame.number;
    },

    resize() {
      const density = window.devicePixelRatio || 1;
      const { clientWidth: width, clientHeight: height } = this.canvas;
      this.canvas.width = Math.max(1, Math.round(width * density));
      this.canvas.height = Math.max(1, Math.round(height * density));
      this.fit();
      this.draw();
    },

    fit() {
      if (!this.image) return;
      const { clientWidth: width, clientHeight: height } = this.canvas;
      const scale = Math.min(width / this.image.width, height / this.image.height);
      this.view = {
        scale,
        x: (width - scale * this.image.width) / 2,
        y: (height - scale * this.image.height) / 2,
      };
    },

    /** Where the wipe is on the screen: it crosses what is seen of the picture. */
    place() {
      const { x, scale } = this.view;
      const left = Math.max(0, x);
      const right = Math.min(this.canvas.clientWidth, x + scale * (this.image?.width ?? 0));
      return left + (this.wipe / 100) * Math.max(1, right - left);
    },

    grab(event) {
      this.canvas.setPointerCapture(event.pointerId);
      const near = Math.abs(event.offsetX - this.place()) < NEAR && !this.both;
      this.held = { wipe: near, x: event.offsetX, y: event.offsetY };
    },

    drag(event) {
      const near = !this.both && Math.abs(event.offsetX - this.place()) < NEAR;
      this.canvas.style.cursor = near || this.held?.wipe ? "ew-resize" : "grab";
      if (!this.held) return;
      if (this.held.wipe) {
        const { x, scale } = this.view;
        const left = Math.max(0, x);
        const right = Math.min(this.canvas.clientWidth, x + scale * this.image.width);
        const part = (event.offsetX - left) / Math.max(1, right - left);
        this.wipe = Math.round(100 * Math.min(1, Math.max(0, part)));
        return;
      }
      this.view.x += event.offsetX - this.held.x;
      this.view.y += event.offsetY - this.held.y;
      Object.assign(this.held, { x: event.offsetX, y: event.offsetY });
      this.draw();
    },

    zoom(event) {
      event.preventDefault();
      const { scale, x, y } = this.view;
      const wished = scale * 1.0015 ** -event.deltaY;
      const next = Math.min(LARGEST, Math.max(0.05, wished));
      this.view = {
        scale: next,
        x: event.offsetX - ((event.offsetX - x) * next) / scale,
        y: event.offsetY - ((event.offsetY - y) * next) / scale,
      };
      this.draw();
    },

    draw() {
      const { context, canvas } = this;
      if (!context) return;
      const density = canvas.width / Math.max(1, canvas.clientWidth);
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, canvas.width, canvas.height);
      if (!this.shown) return;
      const { scale, x, y } = this.view;
      context.setTransform(density * scale, 0, 0, density * scale, density * x, density * y);
      context.imageSmoothingEnabled = scale < 3;
      context.drawImage(this.image, 0, 0);
      this.drawSide(0, density);
      this.drawSide(1, density);
      context.setTransform(density, 0, 0, density, 0, 0);
      if (!this.both) this.drawWipe();
      this.drawNames();
    },

    drawSide(side, density) {
      const { context, canvas } = this;
      const { scale, x, y } = this.view;
      context.save();
      if (!this.both) {
        const at = this.place();
        context.setTransform(density, 0, 0, density, 0, 0);
        context.beginPath();
        if (side === 0) context.rect(0, 0, at, canvas.clientHeight);
        else context.rect(at, 0, canvas.clientWidth - at, canvas.clientHeight);
        context.clip();
      }
      // Outlines count from pixel centres, pictures from pixel corners.
      const middle = 0.5 * scale;
      context.setTransform(
        density * scale, 0, 0, density * scale, density * (x + middle), density * (y + middle),
      );
      context.lineJoin = "round";
      for (const [colour, width] of [[RIM, 3.4], [COLOURS[side], 1.6]]) {
        context.strokeStyle = colour;
        context.lineWidth = width / scale;
        if (this.both && side === 1) context.setLineDash([5 / scale, 3 / scale]);
        context.stroke(this.shown.paths[side]);
      }
      context.restore();
    },

    drawWipe() {
      const { context, canvas } = this;
      const at = Math.round(this.place()) + 0.5;
      context.strokeStyle = "rgb(230 235 240 / 90%)";
      context.lineWidth = 1;
      context.beginPath();
      context.moveTo(at, 0);
      context.lineTo(at, canvas.clientHeight);
      context.stroke();
      const y = canvas.clientHeight / 2;
      context.fillStyle = "#e6ebf0";
      context.beginPath();
      context.arc(at, y, 11, 0, 2 * Math.PI);
      context.fill();
      context.fillStyle = "#07090b";
      for (const side of [-1, 1]) {
        context.beginPath();
        context.moveTo(at + side * 7, y);
        context.lineTo(at + side * 2.5, y - 4);
        context.lineTo(at + side * 2.5, y + 4);
        context.fill();
      }
    },

    drawNames() {
      const { context, canvas } = this;
      context.font = `13px ${getComputedStyle(canvas).fontFamily}`;
      this.shown.looks.forEach((look, side) => {
        const count = look.particles.toLocaleString("en");
        const text = `${side ? "Candidate" : "Live"}: ${count} particle${look.particles === 1 ? "" : "s"}`;
        const width = context.measureText(text).width + 34;
        const left = side ? canvas.clientWidth - width - 14 : 14;
        context.fillStyle = PLATE;
        context.beginPath();
        context.roundRect(left, 14, width, 28, 6);
        context.fill();
        context.strokeStyle = COLOURS[side];
        context.lineWidth = 2;
        if (this.both && side) context.setLineDash([4, 2]);
        context.beginPath();
        context.moveTo(left + 9, 28);
        context.lineTo(left + 21, 28);
        context.stroke();
        context.setLineDash([]);
        context.fillStyle = "#e6ebf0";
        context.fillText(text, left + 27, 33);
      });
    },
  },
};

/** All outlines of one model as one path, in picture pixels. */
function pathOf({ offsets, points }) {
  const path = new Path2D();
  for (let i = 0; i + 1 < offsets.length; i += 1) {
    for (let p = offsets[i]; p < offsets[i + 1]; p += 1) {
      const [x, y] = [points[2 * p] / POINTS_PER_PIXEL, points[2 * p + 1] / POINTS_PER_PIXEL];
      if (p === offsets[i]) path.moveTo(x, y);
      else path.lineTo(x, y);
    }
    path.closePath();
  }
  return path;
}
