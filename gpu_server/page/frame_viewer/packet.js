// The live packet: image and outlines in one buffer. Layout: emcopilot/live_packet.py.

const MAGIC = 0x314c4d45; // "EML1", little endian
export const TOUCHES_BORDER = 1;
export const REJECTED = 2;
export const POINTS_PER_PIXEL = 8;
const EVEN_CHANCE = 50; // percent; UNKNOWN_CONFIDENCE is 255 and so not doubted

/** Read a packet; the arrays are views on `buffer`, nothing is copied. */
export function readPacket(buffer) {
  const view = new DataView(buffer);
  if (view.byteLength < 8 || view.getUint32(0, true) !== MAGIC) {
    throw new Error("not a live packet: page and server versions may differ; reload the page");
  }
  const headerBytes = view.getUint32(4, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, headerBytes)));
  let at = 8 + headerBytes;
  const take = (Kind, count) => {
    const array = new Kind(buffer, at, count);
    at += Math.ceil(array.byteLength / 4) * 4; // every array starts on a multiple of 4
    return array;
  };
  const jpeg = take(Uint8Array, header.jpeg_bytes);
  const count = header.particles;
  return {
    header,
    jpeg,
    offsets: take(Uint32Array, count + 1),
    ids: take(Uint32Array, count),
    diameter: take(Float32Array, count),
    flags: take(Uint8Array, count),
    points: take(Int16Array, 2 * header.points),
    confidence: take(Uint8Array, count),
  };
}

/** Whether a particle is less likely one than not; it counts like the others. */
export function isDoubtful(packet, index) {
  return packet.confidence[index] < EVEN_CHANCE;
}
