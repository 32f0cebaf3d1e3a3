// Stored frames: packets by session and number, fetched one at a time, the latest wish first.

import { readPacket } from "./packet.js";

const KEPT = 24; // packets of some 300 kB
const FRESH_MS = 15_000; // others reject too: what is shown must not be older than that
const PATIENCE_MS = 400; // an older request may still finish within that; it is worth showing

export class StoredFrames {
  constructor(api) {
    this.api = api;
    this.kept = new Map(); // "session/number" -> {packet, at}
    this.running = null; // {key, controller, began}
    this.serial = 0;
  }

  /** The packet of a frame, or null when a newer wish came first. Throws what went wrong, in words. */
  async get(session, number) {
    const serial = (this.serial += 1);
    const kept = this.#kept(session, number);
    if (kept) return kept;
    await this.#giveWay();
    if (serial !== this.serial) return null;
    return this.#fetch(session, number);
  }

  /** Fetch a neighbour while nothing else is wanted, so that the next step is there already. */
  async prepare(session, number) {
    if (this.running || this.#kept(session, number)) return;
    await this.#fetch(session, number).catch(() => null);
  }

  /** The frame that was processed last, of any session; null where there is none. */
  async last() {
    const answer = await fetch(`${this.api}/latest/packet`);
    return answer.status === 200 ? readPacket(await answer.arrayBuffer()) : null;
  }

  forget() {
    this.kept.clear();
  }

  #kept(session, number) {
    const found = this.kept.get(`${session}/${number}`);
    return found && performance.now() - found.at < FRESH_MS ? found.packet : null;
  }

  /** Let the request under way finish if it is about to; else end it. */
  async #giveWay() {
    while (this.running) {
      const { done, controller, began } = this.running;
      const left = began + PATIENCE_MS - performance.now();
      const late = new Promise((resolve) => setTimeout(resolve, Math.max(0, left), "late"));
      if ((await Promise.race([done, late])) === "late") controller.abort();
      await done;
    }
  }

  async #fetch(session, number) {
    const controller = new AbortController();
    const work = this.#load(session, number, controller.signal);
    this.running = { controller, began: performance.now(), done: work.catch(() => null) };
    try {
      return await work;
    } finally {
      this.running = null;
    }
  }

  async #load(session, number, signal) {
    try {
      const address = `${this.api}/sessions/${session}/packet?number=${number}`;
      const answer = await fetch(address, { signal });
      if (!answer.ok) throw new Error(await problemText(answer));
      const packet = readPacket(await answer.arrayBuffer());
      this.#keep(session, number, packet);
      return packet;
    } catch (error) {
      if (error.name === "AbortError") return null;
      throw error;
    }
  }

  #keep(session, number, packet) {
    const key = `${session}/${number}`;
    this.kept.delete(key);
    this.kept.set(key, { packet, at: performance.now() });
    if (this.kept.size > KEPT) this.kept.delete(this.kept.keys().next().value);
  }
}

/** What a problem document says, for a person. */
export async function problemText(answer) {
  if (answer.status === 401) return "you are logged out; reload the page to log in again";
  const told = await answer.json().catch(() => ({}));
  return told.detail ?? `the server answered ${answer.status}`;
}
