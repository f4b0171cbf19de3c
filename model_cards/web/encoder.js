// The model: encodes images and texts. All files are served next to the page; nothing is downloaded from elsewhere.

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
env.localModelPath = "./"; // relative: with a full URL, the library skips the metadata request and finds no tokenizer
env.useBrowserCache = false; // the HTTP cache already revalidates files
env.useWasmCache = false;
env.backends.onnx.wasm.wasmPaths = { wasm: new URL("vendor/ort-wasm-simd-threaded.wasm", import.meta.url).href };

export class Encoder {
  /** Load both towers, the tokenizer and the image processor. `site` is site.json, which names the exported variants. */
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

  /** Encode an image (Blob) to an L2-normalized embedding. */
  async encodeImage(blob) {
    const edge = this.processor.crop_size?.height ?? this.processor.size.shortest_edge ?? this.processor.size.height;
    const { pixel_values } = await this.processor(await decodeImage(blob, edge));
    const { image_embeds } = await this.visionModel({ pixel_values });
    return image_embeds.data;
  }

  /** Encode texts to L2-normalized embeddings, in order. Embeddings are cached by text. */
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

  /** Rank labels for an image embedding: labels with scores that sum to 1, highest score first. */
  async label(image, labels) {
    const logits = (await this.encodeTexts(labels)).map((text) => this.logitScale * dot(image, text));
    const max = Math.max(...logits);
    const powers = logits.map((logit) => Math.exp(logit - max));
    const sum = powers.reduce((a, b) => a + b, 0);
    return labels.map((label, row) => ({ label, score: powers[row] / sum })).sort((a, b) => b.score - a.score);
  }
}

export function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}
