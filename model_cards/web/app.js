// The page: what is dropped, pasted or typed goes to the model; answers become bars and tiles.

import { Encoder } from "./encoder.js";
import { ImageIndex } from "./search.js";

const HITS = 24;
const MAX_LABELS = 100;
const at = (id) => document.getElementById(id);
const state = { encoder: null, index: null, image: null, imageMs: 0 };

/** The labels of a text, each once; commas and semicolons of either width separate, as do line ends. */
export function parseLabels(text) {
  return [...new Set(text.split(/[,，、;；\n]/).map((label) => label.trim()).filter(Boolean))];
}

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(id, bold, text) {
  at(id).replaceChildren(element("b", "", bold), text);
}

function fail(error) {
  at("status").className = "status error";
  at("status").textContent = error.message ?? String(error);
  console.error(error);
}

// Runs `work` now, or once more after the run under way: what is typed meanwhile is answered, but not letter by letter.
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
      fail(error);
    } finally {
      running = false;
    }
  };
}

const answer = latest(async () => {
  if (!state.encoder) return;
  const labels = parseLabels(at("labels").value);
  const refusal = !state.image
    ? "Drop an image. · 请先放一张图片。"
    : !labels.length
      ? "Type some labels, separated by commas. · 请输入标签，用逗号分隔。"
      : labels.length > MAX_LABELS
        ? `${labels.length} labels are more than the ${MAX_LABELS} that are answered at once.`
        : "";
  if (refusal) {
    at("answer").replaceChildren();
    return say("answer-note", "", refusal);
  }
  const began = performance.now();
  const shares = await state.encoder.label(state.image, labels);
  const textMs = performance.now() - began;
  at("answer").replaceChildren(...shares.map(({ label, share }) => {
    const row = element("li");
    const track = element("span", "track");
    const bar = element("span", "bar");
    bar.style.width = `${100 * share}%`;
    track.append(bar);
    row.append(element("span", "name", label), element("span", "share", `${(100 * share).toFixed(1)}%`), track);
    return row;
  }));
  say("answer-note", `${state.imageMs.toFixed(0)} ms`, ` for the image, ${textMs.toFixed(0)} ms for the labels`);
});

const search = latest(async () => {
  if (!state.encoder || !state.index) return;
  const query = at("query").value.trim();
  if (!query) {
    at("found").replaceChildren();
    return say("found-note", "", "Type in Chinese or English. · 请输入中文或英文。");
  }
  const began = performance.now();
  const [text] = await state.encoder.encodeTexts([query]);
  const hits = state.index.search(text, HITS);
  const ms = performance.now() - began;
  const language = /[\u3400-\u9fff]/.test(query) ? "zh" : "en";
  at("found").replaceChildren(...hits.map(({ number, score }) => {
    const tile = element("li");
    const image = element("img");
    image.src = state.index.source(number);
    image.alt = state.index.title(number, language);
    image.loading = "lazy";
    tile.title = `cosine ${score.toFixed(3)}`;
    tile.dataset.number = number;
    tile.append(image, element("span", "", image.alt));
    return tile;
  }));
  say("found-note", `${ms.toFixed(0)} ms`, ` · the nearest ${hits.length} of ${state.index.count.toLocaleString("en")} images`);
});

async function see(blob) {
  const image = at("image");
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.hidden = false;
  const began = performance.now();
  try {
    state.image = await state.encoder.encodeImage(blob);
  } catch (error) {
    state.image = null;
    image.hidden = true;
    at("answer").replaceChildren();
    return say("answer-note", "", `This file is not an image that the browser can open. (${error.message})`);
  }
  state.imageMs = performance.now() - began;
  await answer();
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
    const image = [...files].find((entry) => entry.type.startsWith("image/"));
    if (image && state.encoder) see(image);
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
  at("labels").addEventListener("input", answer);
  at("query").addEventListener("input", search);
  document.querySelectorAll(".chips button").forEach((chip) => chip.addEventListener("click", () => {
    const field = at(chip.parentElement.dataset.for);
    field.value = chip.textContent;
    field.dispatchEvent(new Event("input"));
  }));
  const tabs = [...document.querySelectorAll("[role=tab]")];
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => select(tab.id.slice("tab-".length)));
    tab.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      const other = tabs[(place + 1) % tabs.length];
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
  const index = ImageIndex.load("images/index.safetensors"); // meanwhile; the first answer does not wait for it
  index.catch(() => {}); // is awaited below, after the model
  state.encoder = await Encoder.load(site);
  if (site.example) await see(await (await fetchOk(site.example)).blob());
  const seconds = (performance.now() / 1000).toFixed(1);
  at("status").textContent = `${site.name} · ${(site.bytes / 1e6).toFixed(1)} MB · ready in ${seconds} s`;
  document.body.dataset.readyMs = Math.round(performance.now());
  state.index = await index;
  at("credit").textContent = state.index.credit;
  await search();
}

start().catch(fail);
