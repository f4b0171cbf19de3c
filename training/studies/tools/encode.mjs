// Encode image files or texts with transformers.js, as an app in Node would. Usage: node encode.mjs REQUEST ANSWER

import { readFileSync, writeFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { pathToFileURL } from "node:url";

const [request, answer] = process.argv.slice(2);
const { folder, dtype, kind, items, library, resize } = JSON.parse(readFileSync(request, "utf8"));
const { AutoImageProcessor, AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection, RawImage, env } =
  await import(pathToFileURL(library).href);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);
const name = basename(folder);
// the class of the page whose resize equals Pillow's, or that of the library
const { ExactImage } = resize ? await import(pathToFileURL(resize).href) : { ExactImage: RawImage };
const rows = [];
if (kind === "images") {
  const processor = await AutoImageProcessor.from_pretrained(name);
  const model = await CLIPVisionModelWithProjection.from_pretrained(name, { dtype, device: "cpu" });
  for (const path of items) {
    const { data, width, height, channels } = (await RawImage.read(path)).rgb();
    const { pixel_values } = await processor(new ExactImage(data, width, height, channels));
    rows.push((await model({ pixel_values })).image_embeds.data);
  }
} else {
  const tokenizer = await AutoTokenizer.from_pretrained(name);
  const model = await CLIPTextModelWithProjection.from_pretrained(name, { dtype, device: "cpu" });
  for (const text of items) {
    const inputs = tokenizer([text], { padding: true, truncation: true });
    rows.push((await model(inputs)).text_embeds.data);
  }
}
writeFileSync(answer, Buffer.concat(rows.map((row) => Buffer.from(Float32Array.from(row).buffer))));
