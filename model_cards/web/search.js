// Image search: the embeddings come from Python, in one safetensors file.

import { dot } from "./encoder.js";

// All 65,536 half-precision numbers: a table lookup is faster than a conversion.
function halfTable() {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) table[bits] = fraction ? NaN : sign * Infinity;
    else if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return table;
}

export class ImageIndex {
  /** Load `images/index.safetensors`: header length, JSON header, half-precision numbers. */
  static async load(url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
    const buffer = await response.arrayBuffer();
    const headerBytes = Number(new DataView(buffer).getBigUint64(0, true));
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, headerBytes)));
    const { shape, data_offsets } = header.embeddings;
    const table = halfTable();
    const halves = new Uint16Array(buffer.slice(8 + headerBytes + data_offsets[0], 8 + headerBytes + data_offsets[1]));
    const index = new ImageIndex();
    [index.count, index.width] = shape;
    index.embeddings = Float32Array.from(halves, (bits) => table[bits]);
    index.titles = JSON.parse(header.__metadata__.titles);
    index.credit = header.__metadata__.credit;
    return index;
  }

  /** Find the images most similar to an embedding: numbers and cosine similarities, most similar first. */
  search(query, count) {
    const scores = Float32Array.from({ length: this.count }, (_, number) =>
      dot(query, this.embeddings.subarray(number * this.width, (number + 1) * this.width)));
    const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, count);
    return order.map((number) => ({ number, score: scores[number] }));
  }

  /** Return the URL of an image, relative to the page. */
  source(number) {
    return `images/${String(number).padStart(5, "0")}.webp`;
  }

  /** Return an image's title in a language, or in another one if it has none. */
  title(number, language) {
    const names = this.titles[number];
    return names[language] ?? Object.values(names)[0] ?? "";
  }
}
