// The live WebSocket: one packet under way, acknowledged once it is on the screen.

import { readPacket } from "./packet.js";

const LONGEST_WAIT_MS = 5000;

/** Keeps a connection open and hands over packets; `onPacket` resolves when one is drawn. */
export class LiveFeed {
  constructor(url, { onPacket, onState }) {
    this.url = url;
    this.onPacket = onPacket;
    this.onState = onState;
    this.wait = 250;
    this.closed = false;
    this.#connect();
  }

  close() {
    this.closed = true;
    this.socket.close();
  }

  #connect() {
    this.socket = new WebSocket(this.url);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => {
      this.wait = 250;
      this.onState("connected");
    };
    this.socket.onmessage = (message) => this.#take(message.data);
    this.socket.onclose = () => {
      this.onState("disconnected");
      if (this.closed) return;
      setTimeout(() => this.closed || this.#connect(), this.wait);
      this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
    };
  }

  async #take(data) {
    const socket = this.socket;
    const packet = readPacket(data);
    await this.onPacket(packet);
    // Only now may the next one come: a slow screen skips frames instead of queueing them.
    if (socket.readyState === WebSocket.OPEN) socket.send(`ack ${packet.header.seq}`);
  }
}
