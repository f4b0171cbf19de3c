// Image preprocessing equal to the model's processor in Python. A canvas resizes with another filter and crops between
// pixels, which changes the embeddings. Resizing and cropping are therefore done here, the other steps by the library.

import { RawImage } from "@huggingface/transformers";

// Filters of Pillow and torchvision by `resample` in preprocessor_config.json; `support` is half the width in pixels.
const FILTERS = {
  2: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  3: { support: 2, weight: cubic },
};

// Keys' cubic convolution with a = -0.5.
function cubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
}

// For each target pixel, the first source pixel and the weights of the source pixels.
function makeWindows(source, target, { support, weight }) {
  const scale = source / target;
  const stretch = Math.max(1, scale); // a wider filter for smaller targets prevents aliasing
  return Array.from({ length: target }, (_, index) => {
    const center = (index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const end = Math.min(source, Math.trunc(center + support * stretch + 0.5));
    const weights = Float64Array.from({ length: end - start }, (_, k) => weight((start + k - center + 0.5) / stretch));
    const sum = weights.reduce((a, b) => a + b, 0);
    return { start, weights: weights.map((value) => value / sum) };
  });
}

// Resize along one axis. `step` is the stride along the axis, `lineStep` the stride between lines.
function resizeAxis(data, windows, { lines, lineStep, step, outLineStep, outStep, channels }) {
  const out = new Uint8ClampedArray(lines * windows.length * channels); // rounds and clamps, as uint8 images do
  for (let line = 0; line < lines; line++) {
    windows.forEach(({ start, weights }, index) => {
      const from = line * lineStep + start * step;
      const to = line * outLineStep + index * outStep;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * data[from + k * step + channel];
        out[to + channel] = sum;
      }
    });
  }
  return out;
}

/** An RGB image whose resize and crop equal those of Pillow and torchvision. */
export class ExactImage extends RawImage {
  async resize(width, height, { resample = 2 } = {}) {
    if (width === this.width && height === this.height) return this;
    const filter = FILTERS[resample];
    if (!filter) throw new Error(`preprocessor_config.json: resample ${resample} is neither 2 (bilinear) nor 3 (bicubic).`);
    const channels = this.channels;
    const rows = resizeAxis(this.data, makeWindows(this.width, width, filter), {
      lines: this.height, lineStep: this.width * channels, step: channels,
      outLineStep: width * channels, outStep: channels, channels,
    });
    const data = resizeAxis(rows, makeWindows(this.height, height, filter), {
      lines: width, lineStep: channels, step: width * channels,
      outLineStep: channels, outStep: width * channels, channels,
    });
    return new ExactImage(data, width, height, channels);
  }

  async center_crop(width, height) {
    if (width > this.width || height > this.height) {
      throw new Error(`preprocessor_config.json: a crop of ${width} x ${height} is larger than the resized image.`);
    }
    const left = Math.floor((this.width - width) / 2);
    const top = Math.floor((this.height - height) / 2);
    const data = new Uint8ClampedArray(width * height * this.channels);
    for (let row = 0; row < height; row++) {
      const from = ((top + row) * this.width + left) * this.channels;
      data.set(this.data.subarray(from, from + width * this.channels), row * width * this.channels);
    }
    return new ExactImage(data, width, height, this.channels);
  }
}

/** Decode a Blob to RGB, flattened onto white as in training. The browser first shrinks images far larger than needed. */
export async function decodeImage(blob, edge) {
  const whole = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const shrink = Math.floor(Math.min(whole.width, whole.height) / (4 * edge));
  const [width, height] = [whole.width, whole.height].map((side) => Math.round(side / Math.max(1, shrink)));
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(whole, 0, 0, width, height);
  whole.close();
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    data[to] = rgba[from];
    data[to + 1] = rgba[from + 1];
    data[to + 2] = rgba[from + 2];
  }
  return new ExactImage(data, width, height, 3);
}
