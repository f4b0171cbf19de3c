// The model: images and texts in, embeddings out. Everything lies beside the page; nothing comes from elsewhere.

import {
  AutoImageProcessor,
  AutoTokenizer,
  CLIPTextModelWithProjection,
  CLIPVisionModelWithProjection,
  env,
} from "@huggingface/transformers";
import { decodeImage } from "./resize.js";

const FOLDER = "model";
env.allowRemoteModels = false;
env.allowLocalModels = true;
env.localModelPath = "./"; // of the page; the library asks a full address for no metadata, and finds no tokenizer
env.useBrowserCache = false; // the browser's own cache asks whether a file is still the same
env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };

export class Encoder {
  /** Load both towers, tokenizer and image processor. `site` is site.json: which of the exported files to take. */
  static async load(site) {
    const encoder = new Encoder();
    encoder.logitScale = site.logit_scale;
    encoder.texts = new Map();
    [encoder.tokenizer, encoder.processor, encoder.visionModel, encoder.textModel] = await Promise.all([
      AutoTokenizer.from_pretrained(FOLDER),
      AutoImageProcessor.from_pretrained(FOLDER),
      CLIPVisionModelWithProjection.from_pretrained(FOLDER, { dtype: site.dtypes.vision_model, device: "wasm" }),
      CLIPTextModelWithProjection.from_pretrained(FOLDER, { dtype: site.dtypes.text_model, device: "wasm" }),
    ]);
    return encoder;
  }

  /** The L2-normalised embedding of an image (Blob). */
  async encodeImage(blob) {
    const edge = this.processor.crop_size?.height ?? this.processor.size.shortest_edge ?? this.processor.size.height;
    const { pixel_values } = await this.processor(await decodeImage(blob, edge));
    const { image_embeds } = await this.visionModel({ pixel_values });
    return image_embeds.data;
  }

  /** The L2-normalised embeddings of texts, in order; those that were read before are remembered. */
  async encodeTexts(texts) {
    if (this.texts.size > 2000) this.texts.clear();
    const fresh = [...new Set(texts)].filter((text) => !this.texts.has(text));
    if (fresh.length) {
      const { text_embeds } = await this.textModel(this.tokenizer(fresh, { padding: true, truncation: true }));
      const width = text_embeds.dims[1];
      fresh.forEach((text, row) => this.texts.set(text, text_embeds.data.slice(row * width, (row + 1) * width)));
    }
    return texts.map((text) => this.texts.get(text));
  }

  /** Labels with their shares (0..1, of sum 1), the best first, for the embedding of an image. */
  async label(image, labels) {
    const scores = (await this.encodeTexts(labels)).map((text) => this.logitScale * dot(image, text));
    const most = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return labels.map((label, row) => ({ label, share: powers[row] / sum })).sort((a, b) => b.share - a.share);
  }
}

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
