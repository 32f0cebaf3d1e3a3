// What the operator takes out and takes back: shown at once, committed by the server.

import { readPacket, REJECTED } from "./packet.js";
import { problemText } from "./stored.js";

export class Verdicts {
  constructor(api, viewer) {
    this.api = api;
    this.viewer = viewer;
    this.before = Promise.resolve(); // ends with the last change that was asked for
  }

  /** Reject a particle of the shown frame, or restore it. */
  async toggleParticle(packet, index) {
    const { frame_id: frame } = packet.header;
    const rejecting = !(packet.flags[index] & REJECTED);
    packet.flags[index] ^= REJECTED;
    this.viewer.restyle(packet);
    const path = `frames/${frame}/particles/${packet.ids[index]}/${verb(rejecting)}`;
    const failed = await this.#post(path);
    if (!failed) return;
    packet.flags[index] ^= REJECTED; // it was not committed: the screen must not claim it
    this.viewer.restyle(packet);
    this.viewer.flash(failed);
  }

  /** Reject the whole shown frame, or restore it. */
  async toggleFrame(packet) {
    const { header } = packet;
    const rejecting = !header.frame_rejected;
    const failed = await this.#post(`frames/${header.frame_id}/${verb(rejecting)}`);
    if (failed) this.viewer.flash(failed);
    else await this.refresh(header.frame_id);
  }

  /** Take back one's own last change, whichever frame it was on. */
  async undo() {
    let told = null;
    const failed = await this.#post("undo", (answer) => { told = answer; });
    if (failed) {
      this.viewer.flash(failed);
      return;
    }
    this.viewer.flash(`taken back: ${told.action}`);
    await this.refresh(told.frame_id);
  }

  /** Show again what the server says of a frame, if it is the one on the screen. */
  async refresh(frame) {
    const shown = this.viewer.frame?.packet;
    if (shown?.header.frame_id !== frame) return;
    const answer = await fetch(`${this.api}/frames/${frame}/packet`).catch(() => null);
    if (!answer?.ok) return;
    const packet = readPacket(await answer.arrayBuffer());
    const now = this.viewer.frame?.packet;
    if (now?.header.frame_id !== frame || now.flags.length !== packet.flags.length) return;
    now.flags.set(packet.flags);
    Object.assign(now.header, {
      frame_rejected: packet.header.frame_rejected,
      counted: packet.header.counted,
      doubtful: packet.header.doubtful,
    });
    this.viewer.restyle(now);
  }

  /** Returns why it did not work, or "". One after the other: undo takes back the last. */
  #post(path, hear = () => {}) {
    this.before = this.before.then(() => this.#send(path, hear));
    return this.before;
  }

  async #send(path, hear) {
    try {
      const headers = { "x-emc-csrf": "1" };
      const answer = await fetch(`${this.api}/${path}`, { method: "POST", headers });
      if (!answer.ok) return await problemText(answer);
      hear(await answer.json());
      return "";
    } catch {
      return "the server does not answer; nothing was changed";
    }
  }
}

function verb(rejecting) {
  return rejecting ? "reject" : "restore";
}
