// The live WebSocket: one packet under way, acknowledged once it is on the screen.

import { readPacket } from "./packet.js";

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5000;
const POLL_MS = 1000;

/**
 * Keeps a connection open and hands over packets.
 *
 * `onPacket` resolves when one is drawn; `onState` hears "connected", "disconnected", or why
 * a packet cannot be shown. A browser without WebSocket asks once a second instead.
 */
export class LiveFeed {
  constructor(url, { api = "", onPacket, onState }) {
    Object.assign(this, { url, api, onPacket, onState });
    this.wait = FIRST_WAIT_MS;
    this.closed = false;
    if (typeof WebSocket === "undefined") this.#poll();
    else this.#connect();
  }

  close() {
    this.closed = true;
    this.socket?.close();
  }

  #connect() {
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.onState("connected");
    socket.onmessage = (message) => this.#take(socket, message.data);
    socket.onclose = () => this.#reconnect();
  }

  async #reconnect() {
    if (this.closed) return;
    this.onState("disconnected");
    await new Promise((resolve) => setTimeout(resolve, this.wait));
    this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
    if (this.closed) return;
    if (await this.#isLoggedOut()) {
      this.close();
      this.onState("you are logged out: reload the page to log in again");
      return;
    }
    this.#connect();
  }

  /** A WebSocket that is refused does not say why; an ordinary request does. */
  async #isLoggedOut() {
    if (!this.api) return false;
    const answer = await fetch(`${this.api}/agents`).catch(() => null);
    return answer?.status === 401;
  }

  async #take(socket, data) {
    try {
      const packet = readPacket(data);
      await this.onPacket(packet);
      this.wait = FIRST_WAIT_MS; // it works: not only the handshake
      // Only now may the next one come: a slow screen skips frames instead of queueing them.
      if (socket.readyState === WebSocket.OPEN) socket.send(`ack ${packet.header.seq}`);
    } catch (error) {
      // Asking again for a packet that this page cannot read would only fill the network.
      this.close();
      this.onState(`cannot show the frame: ${error.message}`);
    }
  }

  async #poll() {
    let shown = 0;
    while (!this.closed) {
      try {
        const answer = await fetch(`${this.api}/latest/packet?unless=${shown}`);
        if (answer.status === 200) {
          const packet = readPacket(await answer.arrayBuffer());
          shown = packet.header.frame_id;
          if (!this.closed) await this.onPacket(packet);
        }
        this.onState(answer.status === 401 ? "you are logged out: reload the page" : "connected");
      } catch {
        this.onState("disconnected");
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}
