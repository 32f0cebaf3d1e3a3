// Which frame is on the screen: the newest one as it comes, or any stored one of a session.

import { LiveFeed } from "./feed.js";
import { StoredFrames } from "./stored.js";

const PLAYED_MS = 150; // between frames of a film that is played

const nothing = () => {};

/**
 * Feeds a viewer, live or in review.
 *
 * `onChange` hears {mode, session, number, count, playing}; `onState` the connection's state.
 */
export class Film {
  constructor(viewer, { live, api, onChange = nothing, onState = nothing }) {
    Object.assign(this, { viewer, live, api, onChange, onState });
    this.stored = new StoredFrames(api);
    this.mode = "live";
    this.session = 0;
    this.number = 0;
    this.count = 0; // of the session
    this.counts = new Map(); // of every session that was told of
    this.playing = false;
    this.goLive();
  }

  /** Follow the newest frame. */
  goLive() {
    this.#pause();
    this.mode = "live";
    this.stored.serial += 1; // what is still under way is not wanted any more
    this.feed?.close();
    this.feed = new LiveFeed(this.live, {
      api: this.api,
      onPacket: (packet) => this.#showLive(packet),
      onState: (state) => {
        this.viewer.hear(state);
        this.onState(state);
      },
    });
    this.#tell();
    if (!this.viewer.frame) this.#showLast();
  }

  /** Show frame `number` of a session; ends live. Resolves once it, or a later wish, is shown. */
  async goTo(session, number, count = this.count) {
    this.#enterReview(session, count);
    const wanted = Math.min(Math.max(1, Math.round(number)), Math.max(1, this.count));
    const forward = wanted >= this.number ? 1 : -1;
    this.number = wanted;
    this.#tell();
    try {
      const packet = await this.stored.get(session, wanted);
      // Frames come in the order of the wishes: one that is overtaken is still worth a glance.
      if (!packet || this.mode !== "review" || this.session !== session) return;
      await this.viewer.show(packet);
      if (this.number === wanted) this.#prepare(wanted + forward);
    } catch (error) {
      if (this.mode === "review" && this.number === wanted) this.viewer.say(error.message, true);
    }
  }

  /** Go `frames` on, or back. */
  step(frames) {
    if (!this.session) return;
    this.#pause();
    this.goTo(this.session, this.number + frames);
  }

  first() {
    if (this.session) this.goTo(this.session, 1);
  }

  last() {
    if (this.session) this.goTo(this.session, this.count);
  }

  /** Hold the live view, or play and hold the film. */
  toggle() {
    if (!this.session) return;
    if (this.mode === "live") {
      this.goTo(this.session, this.number);
    } else if (this.playing) {
      this.#pause();
      this.#tell();
    } else {
      this.#play();
    }
  }

  /** Hear how many frames a session has by now. */
  setCount(session, count) {
    this.counts.set(session, count);
    if (session !== this.session || count === this.count) return;
    this.count = count;
    this.#tell();
  }

  close() {
    this.#pause();
    this.feed?.close();
  }

  /** After its start a server has nothing live yet, but it has the frames of before. */
  async #showLast() {
    const packet = await this.stored.last().catch(() => null);
    if (packet && !this.viewer.frame) await this.#showLive(packet);
  }

  async #showLive(packet) {
    if (this.mode !== "live") return;
    const { session_id: session, number } = packet.header;
    const drawn = await this.viewer.show(packet);
    if (!drawn || this.mode !== "live") return;
    const told = this.counts.get(session) ?? 0;
    Object.assign(this, { session, number, count: Math.max(told, number) });
    this.#tell();
  }

  #enterReview(session, count) {
    if (this.mode === "live") {
      this.feed?.close();
      this.feed = null;
      this.viewer.hear("connected"); // a lost connection says nothing about stored frames
    }
    if (session !== this.session) this.#pause();
    Object.assign(this, { mode: "review", session, count });
  }

  async #play() {
    this.playing = true;
    const run = (this.run = Symbol("run"));
    if (this.number >= this.count) this.number = 0;
    while (this.playing && this.run === run && this.number < this.count) {
      const due = performance.now() + PLAYED_MS;
      await this.goTo(this.session, this.number + 1);
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
    }
    if (this.run === run) this.#pause();
    this.#tell();
  }

  #prepare(number) {
    if (number >= 1 && number <= this.count) this.stored.prepare(this.session, number);
  }

  #pause() {
    this.playing = false;
    this.run = null;
  }

  #tell() {
    const { mode, session, number, count, playing } = this;
    this.onChange({ mode, session, number, count, playing });
  }
}
