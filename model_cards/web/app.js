// The page: encodes dropped or pasted images and typed texts, and shows scores as bars and search results as tiles.

import { Encoder } from "./encoder.js";
import { ImageIndex } from "./search.js";

const HITS = 24;
const MAX_LABELS = 100;
const at = (id) => document.getElementById(id);
const state = { encoder: null, index: new ImageIndex(), image: null, imageMs: 0, upload: 0, waiting: null };

/** Split a text into unique labels at commas, semicolons (ASCII or Chinese) and line ends. */
export function parseLabels(text) {
  return [...new Set(text.split(/[,，、;；\n]/).map((label) => label.trim()).filter(Boolean))];
}

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function showNote(id, bold, text) {
  at(id).replaceChildren(element("b", "", bold), text);
}

function showBusy(text) {
  at("answer-note").replaceChildren(element("span", "busy"), text);
}

function showError(error) {
  at("status").className = "status error";
  at("status").textContent = error.message ?? String(error);
  console.error(error);
}

// Run `work` now, or once more after the current run: fast typing does not queue a run per letter.
function latest(work) {
  let running = false;
  let again = false;
  return async () => {
    if (running) return void (again = true);
    running = true;
    try {
      do {
        again = false;
        await work();
      } while (again);
    } catch (error) {
      showError(error);
    } finally {
      running = false;
    }
  };
}

const updateLabels = latest(async () => {
  if (!state.encoder) return;
  const labels = parseLabels(at("labels").value);
  if (!state.image && state.upload) return; // an image is being encoded, or its note says why not
  const problem = !state.image
    ? "Drop an image. · 请先放入一张图片。"
    : !labels.length
      ? "Enter labels, separated by commas. · 请输入标签，用逗号分隔。"
      : labels.length > MAX_LABELS
        ? `Got ${labels.length} labels; enter at most ${MAX_LABELS}. · 标签过多，最多 ${MAX_LABELS} 个。`
        : "";
  if (problem) {
    at("answer").replaceChildren();
    return showNote("answer-note", "", problem);
  }
  const began = performance.now();
  const scores = await state.encoder.label(state.image, labels);
  const textMs = performance.now() - began;
  at("answer").replaceChildren(...scores.map(({ label, score }) => {
    const row = element("li");
    const track = element("span", "track");
    const bar = element("span", "bar");
    bar.style.width = `${100 * score}%`;
    track.append(bar);
    row.append(element("span", "name", label), element("span", "score", `${(100 * score).toFixed(1)}%`), track);
    return row;
  }));
  showNote("answer-note", `${state.imageMs.toFixed(0)} ms`, ` for the image, ${textMs.toFixed(0)} ms for the labels`);
});

const updateSearch = latest(async () => {
  if (!state.encoder) return;
  const query = at("query").value.trim();
  const problem = !state.index.images.length
    ? "Choose images to search. · 请先选择要搜索的图片。"
    : !query
      ? "Enter a search text in Chinese or English. · 请输入中文或英文。"
      : "";
  if (problem) {
    at("found").replaceChildren();
    return showNote("found-note", "", problem);
  }
  const began = performance.now();
  const [text] = await state.encoder.encodeTexts([query]);
  const hits = state.index.search(text, HITS);
  const ms = performance.now() - began;
  at("found").replaceChildren(...hits.map(({ title, url, score }) => {
    const tile = element("li");
    const image = element("img");
    image.src = url;
    image.alt = title;
    tile.title = `cosine ${score.toFixed(3)}`;
    tile.append(image, element("span", "", title));
    return tile;
  }));
  const count = state.index.images.length.toLocaleString("en");
  showNote("found-note", `${ms.toFixed(0)} ms`, ` · top ${hits.length} of ${count} images`);
});

async function addImages(files) {
  const failed = await state.index.add(files, state.encoder, (done) =>
    showNote("added-note", `${done} of ${files.length}`, " images encoded · 已处理的图片"));
  if (failed.length)
    showNote("added-note", `${failed.length} of ${files.length}`, ` images do not decode · 无法打开：${failed.join(", ")}`);
  await updateSearch();
}

// Clear the old answer at once, encode the image, and show the new answer. Each image is decoded once.
async function showImage(blob) {
  const upload = ++state.upload; // a newer image takes over
  const image = at("image");
  state.image = null;
  at("answer").replaceChildren();
  if (!blob.type.startsWith("image/")) {
    image.hidden = true;
    return showNote("answer-note", "", `This file is not an image${blob.name ? `: ${blob.name}` : ""}. · 该文件不是图片。`);
  }
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.hidden = false;
  if (!state.encoder) {
    state.waiting = blob;
    return showBusy("The model is loading … · 正在加载模型……");
  }
  showBusy("Encoding the image … · 正在处理图片……");
  await new Promise((resolve) => setTimeout(resolve)); // the browser paints the sign before the work begins
  const began = performance.now();
  try {
    const embedding = await state.encoder.encodeImage(blob);
    if (upload !== state.upload) return;
    state.image = embedding;
  } catch (error) {
    if (upload !== state.upload) return;
    image.hidden = true;
    return showNote("answer-note", "", `The browser cannot decode this file as an image (${error.message}). · 无法打开该图片。`);
  }
  state.imageMs = performance.now() - began;
  await updateLabels();
}

function select(name) {
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const isSelected = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", isSelected);
    tab.tabIndex = isSelected ? 0 : -1;
    at(tab.getAttribute("aria-controls")).hidden = !isSelected;
  }
}

function listen() {
  const file = at("file");
  const drop = at("drop");
  const take = (files) => {
    if (!at("panel-search").hidden) {
      // without the model, every image would count as one that does not decode
      if (files.length && state.encoder) addImages([...files]).catch(showError);
      return;
    }
    const file = [...files].find((entry) => entry.type.startsWith("image/")) ?? files[0];
    if (file) showImage(file);
  };
  file.addEventListener("change", () => take(file.files));
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") take(event.dataTransfer.files);
    });
  }
  at("labels").addEventListener("input", updateLabels);
  at("query").addEventListener("input", updateSearch);
  at("images").addEventListener("change", () => addImages([...at("images").files]).catch(showError));
  document.querySelectorAll(".chips button").forEach((chip) => chip.addEventListener("click", () => {
    const field = at(chip.parentElement.dataset.for);
    field.value = chip.textContent;
    field.dispatchEvent(new Event("input"));
  }));
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, position) => {
    tab.addEventListener("click", () => select(tab.id.slice("tab-".length)));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[(position + 1) % tabs.length];
      other.click();
      other.focus();
    });
  });
}

async function fetchOk(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}

async function start() {
  listen();
  const site = await (await fetchOk("site.json")).json();
  at("status").textContent = `Loading ${site.name}, ${(site.bytes / 1e6).toFixed(1)} MB …`;
  state.encoder = await Encoder.load(site);
  if (state.waiting) await showImage(state.waiting);
  else if (site.example) {
    const example = await (await fetchOk(site.example)).blob();
    if (!state.upload) await showImage(example); // else the user was faster
  }
  const seconds = (performance.now() / 1000).toFixed(1);
  at("status").textContent = `${site.name} · ${(site.bytes / 1e6).toFixed(1)} MB · ready in ${seconds} s`;
  document.body.dataset.readyMs = Math.round(performance.now());
  at("images").disabled = false;
  await updateSearch();
}

start().catch(showError);
