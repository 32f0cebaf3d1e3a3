// The NiceGUI component around the plain viewer modules: canvas, scrubber, keys.

import { Film, FrameViewer, Verdicts, wishOf } from "emcopilot-frame-viewer";

const template = `
<div class="frame-canvas">
  <div class="emc-screen">
    <canvas tabindex="0" role="img" :aria-label="label"></canvas>
  </div>
  <div class="emc-film" role="group" aria-label="frames of the session">
    <button type="button" class="emc-play" :disabled="!film.session" :title="playTitle + ' (space)'"
            :aria-label="playTitle" @click="wish('toggle')">
      <svg viewBox="0 0 16 16" aria-hidden="true"><path :d="playShape"/></svg>
    </button>
    <input type="range" min="1" :max="Math.max(1, film.count)" :value="film.number || 1"
           :disabled="!film.session" aria-label="frame of the session"
           :aria-valuetext="place" @input="scrub">
    <span class="emc-place" data-part="place">{{ place }}</span>
    <button type="button" class="emc-live" :class="{ on: film.mode === 'live' }" data-part="live"
            :aria-pressed="film.mode === 'live'" title="follow the newest frame (L)"
            @click="wish('live')">LIVE</button>
    <span class="emc-film-gap"></span>
    <span class="emc-rejected" data-part="rejected">{{ rejected }} rejected</span>
    <button type="button" :disabled="!mayChange" title="take back your last change (Ctrl+Z)"
            @click="wish('undo')">Undo</button>
    <button type="button" :disabled="!mayChange || !film.session"
            title="take the whole frame out of the statistics, or back in (Shift+Delete)"
            @click="wish('rejectFrame')">{{ frameRejected ? "Restore frame" : "Reject frame" }}</button>
  </div>
  <div class="emc-unseen" role="status" aria-live="polite">{{ announced }}</div>
</div>`;

export default {
  template,
  props: { feed: String, api: String, options: Object, mayChange: Boolean },
  data: () => ({
    film: { mode: "live", session: 0, number: 0, count: 0, playing: false },
    rejected: 0,
    frameRejected: false,
    announced: "",
  }),
  computed: {
    place() {
      const { number, count } = this.film;
      return number ? `${number.toLocaleString("en")} / ${count.toLocaleString("en")}` : "no frames";
    },
    moving() {
      return this.film.mode === "live" || this.film.playing;
    },
    playTitle() {
      return this.moving ? "pause" : "play";
    },
    playShape() {
      return this.moving ? "M3 2h4v12H3zM9 2h4v12H9z" : "M4 2l10 6-10 6z";
    },
    label() {
      return `frame ${this.place} with outlines; N goes to the next particle, Delete rejects it`;
    },
  },
  mounted() {
    // What is on the screen, for tests and for whoever looks at the page with a script.
    const shown = this.$el.dataset;
    const canvas = this.$el.querySelector("canvas");
    this.viewer = new FrameViewer(canvas, {
      onFrame: (header) => {
        shown.seq = header.seq;
        shown.frame = header.frame_id;
        shown.number = header.number;
        shown.particles = header.particles;
        shown.doubtful = header.doubtful;
        this.rejected = this.viewer.rejected;
        shown.rejected = this.rejected;
        this.frameRejected = header.frame_rejected;
        this.$emit("frame", header);
      },
      onHover: (text) => { shown.hover = text; },
      onView: ({ scale, x, y }) => { shown.view = [scale, x, y].join(" "); },
      onPick: (packet, index) => this.change(() => this.verdicts.toggleParticle(packet, index)),
    });
    if (this.options) this.viewer.set(this.options);
    this.verdicts = new Verdicts(this.api, this.viewer);
    const protocol = location.protocol === "https:" ? "wss" : "ws";
    this.reel = new Film(this.viewer, {
      live: `${protocol}://${location.host}${this.feed}`,
      api: this.api,
      onState: (state) => { shown.state = state; },
      onChange: (film) => {
        const before = this.film;
        this.film = film;
        shown.mode = film.mode;
        if (film.mode !== before.mode || film.session !== before.session) this.$emit("film", film);
      },
    });
    this.onKey = (event) => {
      const wish = wishOf(event);
      if (!wish) return;
      event.preventDefault();
      this.wish(wish);
    };
    // A clicked button must not keep the focus: space would press it again instead of pausing.
    this.onClick = (event) => {
      if (event.detail > 0) event.target.closest?.("button, [role=switch]")?.blur();
    };
    document.addEventListener("keydown", this.onKey);
    document.addEventListener("click", this.onClick);
  },
  unmounted() {
    document.removeEventListener("keydown", this.onKey);
    document.removeEventListener("click", this.onClick);
    this.reel.close();
    this.viewer.destroy();
  },
  watch: {
    options(options) {
      this.viewer.set(options);
    },
  },
  methods: {
    wish(wish) {
      const { reel, viewer } = this;
      const wishes = {
        back: () => reel.step(-1),
        on: () => reel.step(1),
        back10: () => reel.step(-10),
        on10: () => reel.step(10),
        first: () => reel.first(),
        last: () => reel.last(),
        toggle: () => reel.toggle(),
        live: () => reel.goLive(),
        nextParticle: () => { this.announced = viewer.choose(1); },
        previousParticle: () => { this.announced = viewer.choose(-1); },
        rejectParticle: () => this.rejectChosen(),
        rejectFrame: () => this.change(() => this.verdicts.toggleFrame(viewer.frame.packet)),
        undo: () => this.change(() => this.verdicts.undo()),
        auto: () => this.auto(),
        letGo: () => viewer.unchoose(),
      };
      wishes[wish]?.();
    },
    scrub(event) {
      this.reel.goTo(this.film.session, Number(event.target.value));
    },
    rejectChosen() {
      const index = this.viewer.chosenIndex;
      if (index < 0) {
        this.viewer.flash("choose a particle first: N goes to the next one, or click one");
        return;
      }
      const { packet } = this.viewer.frame;
      this.change(() => this.verdicts.toggleParticle(packet, index)).then(() => {
        this.announced = `${this.rejected} rejected on this frame`;
      });
    },
    async change(act) {
      if (!this.viewer.frame) return;
      if (this.mayChange) await act();
      else this.viewer.flash("your token may look, not change: ask for one with operator scope");
    },
    auto() {
      const levels = this.viewer.autoLevels();
      if (levels) this.$emit("levels", levels);
    },
    fit() {
      this.viewer.fit();
    },
    redraw() {
      this.viewer.draw();
    },
    goLive() {
      this.reel.goLive();
    },
    goTo(session, number, count) {
      this.reel.goTo(session, number, count);
    },
    setCount(session, count) {
      this.reel.setCount(session, count);
    },
    refresh() {
      this.reel.stored.forget();
      const header = this.viewer.frame?.packet.header;
      if (header && this.film.mode === "review") this.reel.goTo(this.film.session, this.film.number);
    },
  },
};
