// The live WebSocket: one packet under way, acknowledged once it is on the screen.

import { readPacket } from "./packet.js";

const FIRST_WAIT_MS = 250;
const LONGEST_WAIT_MS = 5000;

/**
 * Keeps a connection open and hands over packets.
 *
 * `onPacket` resolves when one is drawn; `onState` hears "connected", "disconnected", or why
 * a packet cannot be shown.
 */
export class LiveFeed {
  constructor(url, { onPacket, onState }) {
    this.url = url;
    this.onPacket = onPacket;
    this.onState = onState;
    this.wait = FIRST_WAIT_MS;
    this.closed = false;
    this.#connect();
  }

  close() {
    this.closed = true;
    this.socket.close();
  }

  #connect() {
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => this.onState("connected");
    socket.onmessage = (message) => this.#take(socket, message.data);
    socket.onclose = () => {
      if (this.closed) return;
      this.onState("disconnected");
      setTimeout(() => this.closed || this.#connect(), this.wait);
      this.wait = Math.min(2 * this.wait, LONGEST_WAIT_MS);
    };
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
}
