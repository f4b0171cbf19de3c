// Image search: the visitor's own images, encoded on their device.

import { dot } from "./encoder.js";

export class ImageIndex {
  images = []; // { title, url, embedding }

  /** Encode files and add them. Calls `progress(done)` after each; returns the names of those that do not decode. */
  async add(files, encoder, progress) {
    const failed = [];
    for (const [number, file] of files.entries()) {
      try {
        const embedding = await encoder.encodeImage(file);
        this.images.push({ title: file.name, url: URL.createObjectURL(file), embedding });
      } catch {
        failed.push(file.name);
      }
      progress(number + 1);
    }
    return failed;
  }

  /** Find the images most similar to an embedding: images with their cosine similarities, most similar first. */
  search(query, count) {
    const scored = this.images.map((image) => ({ ...image, score: dot(query, image.embedding) }));
    return scored.sort((a, b) => b.score - a.score).slice(0, count);
  }
}
