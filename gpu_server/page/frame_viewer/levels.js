// Brightness and contrast that make the most of what is in sight.

const LOOKED_AT_PX = 256; // side of the sample: percentiles of 65,536 pixels are good to 1 %
const DARK = 0.005;
const BRIGHT = 0.995;

/**
 * Levels for `image` within `sight`, {x, y, width, height} in its pixels.
 *
 * The canvas draws clip((v * brightness - 0.5) * contrast + 0.5) for v in 0..1; returned are
 * the two values with which the dark end of the part in sight comes out 0 and the bright end 1.
 */
export function autoLevels(image, { x, y, width, height }) {
  if (width < 1 || height < 1) return null;
  const sample = new OffscreenCanvas(LOOKED_AT_PX, LOOKED_AT_PX);
  const context = sample.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, x, y, width, height, 0, 0, LOOKED_AT_PX, LOOKED_AT_PX);
  const { data } = context.getImageData(0, 0, LOOKED_AT_PX, LOOKED_AT_PX);
  const counts = new Uint32Array(256);
  for (let i = 0; i < data.length; i += 4) counts[data[i]] += 1;
  const low = percentile(counts, DARK);
  const high = percentile(counts, BRIGHT);
  return levels(low / 255, Math.max(high, low + 8) / 255);
}

/** Brightness and contrast that map `low` to 0 and `high` to 1. */
export function levels(low, high) {
  const slope = 1 / (high - low);
  const contrast = 1 + 2 * low * slope;
  return { brightness: slope / contrast, contrast };
}

function percentile(counts, share) {
  const wanted = share * counts.reduce((sum, count) => sum + count, 0);
  let passed = 0;
  for (let value = 0; value < counts.length; value += 1) {
    passed += counts[value];
    if (passed >= wanted) return value;
  }
  return counts.length - 1;
}
