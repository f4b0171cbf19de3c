// Build the page as a folder for any static host, with an exported model and the libraries that npm installed.
//
// node model_cards/web/build.mjs --model runs/demo/edge --output_dir runs/web

import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HERE = path.dirname(fileURLToPath(import.meta.url));
const PAGE_FILES = ["index.html", "style.css", "app.js", "encoder.js", "resize.js", "search.js"];
// the modules in the import map of index.html, and the kernels; the build without WebGPU is half as large
const LIBRARIES = {
  "transformers.js": "@huggingface/transformers/dist/transformers.web.min.js",
  "ort.mjs": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
  "ort-wasm-simd-threaded.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
};
const MODEL_FILES = ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"];
const TOWERS = ["vision_model", "text_model"];
// an int8 file exists only if it passed the accuracy gate, so it is preferred
const SUFFIXES = { q8: "_quantized", fp32: "" };
const EXAMPLES = ["example.jpg", "example.png"];

function fail(message) {
  console.error(`build: ${message}`);
  process.exit(2);
}

function requireFile(file, field, remedy) {
  if (!fs.existsSync(file)) fail(`${field}: ${file} does not exist. ${remedy}`);
  return file;
}

/** Read one number of a safetensors file: header length, JSON header, values. */
function readScalar(file, name) {
  const content = fs.readFileSync(file);
  const headerBytes = Number(content.readBigUInt64LE(0));
  const { dtype, data_offsets } = JSON.parse(content.subarray(8, 8 + headerBytes).toString("utf-8"))[name];
  const start = 8 + headerBytes + data_offsets[0];
  if (dtype === "F32") return content.readFloatLE(start);
  if (dtype !== "F16") fail(`model: ${name} of ${file} is ${dtype}. Save the model in float32 or float16.`);
  const bits = content.readUInt16LE(start); // sign, exponent, fraction
  return (bits & 0x8000 ? -1 : 1) * 2 ** (((bits >> 10) & 31) - 15) * (1 + (bits & 1023) / 1024);
}

function build({ model, output_dir, node_modules: modules }) {
  const output = path.resolve(output_dir); // without a slash at the end, which would put the scratch folder inside
  for (const source of Object.values(LIBRARIES))
    requireFile(path.join(modules, source), "node_modules", "Run: npm ci --ignore-scripts --prefix model_cards/web");
  for (const name of [...MODEL_FILES, "model.safetensors"])
    requireFile(path.join(model, name), "model", "Name a finished model folder, such as runs/demo/model.");
  const dtypes = {};
  for (const tower of TOWERS) {
    dtypes[tower] = Object.keys(SUFFIXES).find((dtype) =>
      fs.existsSync(path.join(model, "onnx", `${tower}${SUFFIXES[dtype]}.onnx`)));
    if (!dtypes[tower])
      fail(`model: ${model} has no onnx/${tower}.onnx. Run: python training/export.py ${model} --output_dir ${model}`);
  }
  if (fs.existsSync(output) && fs.readdirSync(output).length && !fs.existsSync(path.join(output, "site.json")))
    fail(`output_dir: ${output} holds other files, which would be deleted. Name a new folder.`);

  const scratch = `${output}.building`;
  fs.rmSync(scratch, { recursive: true, force: true });
  fs.mkdirSync(path.join(scratch, "model", "onnx"), { recursive: true });
  fs.mkdirSync(path.join(scratch, "vendor"));
  const copy = (from, to) => fs.copyFileSync(from, path.join(scratch, to));
  for (const name of PAGE_FILES) copy(path.join(HERE, name), name);
  for (const [name, source] of Object.entries(LIBRARIES)) copy(path.join(modules, source), path.join("vendor", name));
  for (const name of MODEL_FILES) copy(path.join(model, name), path.join("model", name));
  let bytes = 0;
  for (const tower of TOWERS) {
    const file = path.join("onnx", `${tower}${SUFFIXES[dtypes[tower]]}.onnx`);
    copy(path.join(model, file), path.join("model", file));
    bytes += fs.statSync(path.join(model, file)).size;
  }
  const example = EXAMPLES.find((name) => fs.existsSync(path.join(model, name)));
  if (example) copy(path.join(model, example), example);

  const cardFile = path.join(model, "README.md");
  const card = fs.existsSync(cardFile) ? fs.readFileSync(cardFile, "utf-8") : "";
  const name = card.match(/^# (.+)$/m)?.[1] ?? path.basename(path.resolve(model));
  const license = card.match(/^license: (\S+)$/m)?.[1] ?? "unknown";
  const logit_scale = Math.exp(readScalar(path.join(model, "model.safetensors"), "logit_scale"));
  const lines = [
    "---", `title: ${JSON.stringify(name)}`, "emoji: 🐈", "colorFrom: blue", "colorTo: gray", "sdk: static",
    `license: ${license}`, "short_description: Label and search images in Chinese and English",
    "tags: [dcclip, zero-shot-image-classification]", "---", "", "The model runs in the browser.", "",
  ];
  fs.writeFileSync(path.join(scratch, "README.md"), lines.join("\n")); // makes the folder a static Space of the Hub
  // written last: a folder with this file is complete
  fs.writeFileSync(path.join(scratch, "site.json"), JSON.stringify({ name, bytes, dtypes, logit_scale, example }));
  fs.rmSync(output, { recursive: true, force: true });
  fs.renameSync(scratch, output);
  console.log(`${output_dir}: the page is complete; any web server can serve this folder`);
  console.log(`\nNext:\n  python -m http.server --bind 127.0.0.1 --directory ${output_dir}`);
}

const { values } = parseArgs({
  options: {
    model: { type: "string", default: path.join(HERE, "..", "dcclip-tiny-photo") },
    output_dir: { type: "string", default: "runs/web" },
    node_modules: { type: "string", default: path.join(HERE, "node_modules") },
  },
});
build(values);
