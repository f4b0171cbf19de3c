// The page: what the address says is searched and shown.

import { Grid, make } from "./grid.js";
import { ask, send } from "./server.js";
import { count, language, monthName, text } from "./texts.js";
import { Viewer } from "./viewer.js";

const FIELDS = ["q", "after", "before", "path", "sort"];
const LOOKED = 200; // best photographs among which the server counts those that fit
const CHUNK = 100; // photographs of the timeline in one request
const POLL_MS = 2000;
const REFRESH_MS = 10_000; // between two looks at what is new while it is indexed
const LISTED = 8; // paths of a cause in the list of what was left out
const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((each) => [each.id, each]));
const places = new Map(); // how far each search was scrolled, for the way back
let latest = 0; // number of the search that is shown
let shown = null; // the search that is shown, without the photograph that is large
let files = null; // in the index
let refreshed = 0; // when new photographs were shown

const parameters = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
const hashOf = (fields) => "#" + new URLSearchParams(Object.entries(fields).filter(([, value]) => value));

const grid = new Grid(element.grid, element.years, (hit) => viewer.show(hit));
const viewer = new Viewer(element, grid, (changes) => visit({ ...parameters(), photo: "", ...changes }));

function visit(changed) {
  places.set(shown, scrollY);
  const hash = hashOf(changed);
  if (hash === location.hash || (hash === "#" && !location.hash)) {
    fill(changed);
    show();
  } else {
    location.hash = hash;
  }
}

/** A date as the fields show it: the first day of a month or a year, or the last one. */
function dayOf(date = "", isLast) {
  const [year, month, day] = date.split("-").map(Number);
  if (!year || day) return date;
  const found = isLast ? new Date(Date.UTC(year, month || 12, 0)) : new Date(Date.UTC(year, (month || 1) - 1, 1));
  return found.toISOString().slice(0, 10);
}

function submit() {
  const { dates, photo, ...now } = parameters();
  const fields = Object.fromEntries(FIELDS.map((name) => [name, element[name].value.trim()]));
  toggleFilters(false);
  visit({ ...now, ...fields, ...(fields.q === now.q && dates ? { dates } : {}) });
}

/** Search for what the address says, unless it is shown, and show its photograph large. */
async function follow() {
  const { photo, ...now } = parameters();
  const search = hashOf(now);
  if (!photo) viewer.hide();
  if (search !== shown) {
    if (shown !== null) fill(now);
    shown = search;
    await show();
  }
  if (photo && search === shown && photo !== viewer.hit?.id) viewer.showById(photo);
}

/** Write what the address says into the fields. */
function fill(now) {
  for (const name of FIELDS) element[name].value = now[name] ?? "";
  for (const name of ["after", "before"]) element[name].value = dayOf(now[name], name === "before");
}

async function show() {
  const { photo, ...now } = parameters();
  const number = (latest += 1);
  const isFiltered = Boolean(now.after || now.before || now.path);
  showChips(now, null);
  element.status.textContent = text.loading;
  element.grid.classList.add("loading");
  const search = (skip, top) => ask("/search?" + new URLSearchParams({ ...now, skip, top }));
  const first = await search(0, now.sort ? LOOKED : CHUNK);
  if (number !== latest) return; // a later search was faster
  if (first.error) {
    grid.say(first.error, "");
    element.status.textContent = first.error;
    return;
  }
  showChips(now, first.dates);
  const isQuery = first.is_query;
  element.sort.hidden = !isQuery;
  element.status.textContent = first.hits.length ? sentence(now, first, isQuery) : "";
  if (!first.hits.length) sayEmpty(isFiltered || first.dates);
  else if (!isQuery) await showTimeline(now, first, search, number);
  else showResults(now, first, search, number);
  scrollTo(0, places.get(shown) ?? 0);
  places.delete(shown);
}

function sentence(now, answer, isQuery) {
  const total = count(answer.total);
  const parts = [];
  const image = now.like || now.example;
  if (image && now.q) parts.push(text.combined(now.q));
  if (answer.without.length) parts.push(text.without(answer.without));
  if (!isQuery) parts.push(text.all(total, answer.hits.some((hit) => hit.seconds !== null)));
  else if (answer.fits === 0) parts.push(answer.may ? text.may : text.none);
  else if (now.sort) parts.push(text.byDateOf(count(answer.hits.length)));
  else if (answer.fits === null) parts.push(text.similarity(total));
  else if (answer.fits >= LOOKED) parts.push(text.many(count(LOOKED), total));
  else parts.push(text.fit(count(answer.fits), count(answer.total - answer.fits)));
  return [...parts, ...answer.notes].join(" · ");
}

function sayEmpty(isFiltered) {
  if (isFiltered) {
    const button = make("button", { type: "button" }, text.unfilter);
    button.addEventListener("click", () => visit({ ...parameters(), after: "", before: "", path: "", dates: "off" }));
    grid.say(text.filtered, "", button);
  } else if (element.indexing.hidden) {
    grid.say(text.nothing, text.nothingHelp);
  } else {
    grid.say(text.soon, text.soonHelp);
  }
}

async function showTimeline(now, first, search, number) {
  const dates = first.dates ?? {};
  const months = await ask("/months?" + new URLSearchParams({ ...now, ...dates }));
  if (number !== latest || months.error) return;
  const chunks = [first]; // small months share one request
  const chunk = (place) => (chunks[place] ??= number === latest ? search(place * CHUNK, CHUNK) : { hits: [] });
  grid.showTimeline(months, async (skip, top) => {
    const place = Math.floor(skip / CHUNK);
    const isInOne = skip + top <= (place + 1) * CHUNK;
    const answers = await Promise.all(isInOne ? [chunk(place)] : [chunk(place), chunk(place + 1)]);
    const hits = answers.flatMap((answer) => answer.hits ?? []);
    return hits.slice(skip - place * CHUNK, skip - place * CHUNK + top);
  });
}

function showResults(now, first, search, number) {
  grid.clear();
  if (now.sort) {
    showByDate(first.hits);
    return;
  }
  const listed = new Set();
  let skip = 0;
  let last = null; // the section that photographs are added to: those that fit, then the others
  const place = (hits, goOn) => {
    const isOther = last?.element.className === "others";
    const other = hits.findIndex((hit) => !hit.fits);
    const cut = isOther ? 0 : other < 0 ? hits.length : other;
    if (cut) grid.add((last ??= grid.section()), hits.slice(0, cut), goOn && cut === hits.length);
    if (cut === hits.length) return;
    if (!isOther) last = grid.section(last && text.less, "others");
    grid.add(last, hits.slice(cut), goOn);
  };
  const take = (answer) => {
    const hits = answer.hits.filter((hit) => !listed.has(hit.id)); // the index may have changed
    hits.forEach((hit) => listed.add(hit.id));
    skip += answer.hits.length;
    place(hits, answer.more);
    if (!answer.more) return;
    grid.atEnd(async () => {
      const next = await search(skip, CHUNK);
      if (next.hits && number === latest) take(next);
    });
  };
  take(first);
}

/** Photographs under the months that they were taken in; a heading only after rows that are full. */
function showByDate(hits) {
  const groups = [];
  for (const inMonth of Map.groupBy(hits, (hit) => hit.date.slice(0, 7)).values()) {
    if (groups.length && !grid.fillsRow(groups.at(-1))) groups.at(-1).push(...inMonth);
    else groups.push([...inMonth]);
  }
  if (groups.length > 1 && !grid.fillsRow(groups.at(-1))) groups.at(-2).push(...groups.pop());
  for (const group of groups) {
    grid.showHits(group, monthName(group.at(-1).date.slice(0, 7), group[0].date.slice(0, 7)));
  }
}

function chip(label, removed, image) {
  const remove = make("button", { type: "button", ariaLabel: text.remove(label) }, "×");
  remove.addEventListener("click", () => {
    visit({ ...parameters(), ...removed });
    element.q.focus();
  });
  const content = image ? make("img", { src: image, alt: label }) : label;
  return make("span", { className: "chip" }, content, remove);
}

/** What is combined with the text: an image, dates that the text names or that the filters give, and a path. */
function showChips(now, dates) {
  const chips = [];
  if (now.like) chips.push(chip(text.image, { like: "" }, `/thumbnail/${now.like}`));
  if (now.example) chips.push(chip(text.image, { example: "" }, `/example/${now.example}`));
  const { after, before, every, words } = dates ?? now;
  if (after || before || every) {
    const without = dates ? { dates: "off" } : { after: "", before: "", every: "" };
    chips.push(chip(every ? words ?? every : text.dates(after ?? "…", before ?? "…"), without));
  }
  if (now.path) chips.push(chip(`${text.path}: ${now.path}`, { path: "" }));
  element.chips.replaceChildren(...chips);
}

function toggleFilters(isOpen) {
  element.filters.hidden = !isOpen;
  element.filter.ariaExpanded = String(isOpen);
}

function setDetails(isOn) {
  element.grid.classList.toggle("detailed", isOn);
  grid.refill(true);
  element.details.ariaPressed = String(isOn);
}

async function showLeftOut() {
  const answer = await ask("/left-out");
  const content = [];
  for (const { cause, paths } of answer.causes ?? []) {
    const others = paths.length > LISTED ? [text.andMore(count(paths.length - LISTED))] : [];
    const lines = [...paths.slice(0, LISTED), ...others].map((line) => make("li", {}, line));
    content.push(make("h3", {}, cause), make("ul", {}, ...lines));
  }
  if (!content.length) content.push(make("p", {}, answer.error ?? text.nothingLeftOut));
  element.causes.replaceChildren(...content);
  element.dialog.showModal();
}

async function searchWith(file) {
  if (!file) return;
  element.status.textContent = text.loading;
  const answer = await send("/example", file);
  if (answer.error) element.status.textContent = answer.error;
  else visit({ ...parameters(), like: "", example: answer.name });
}

/** Show how far the indexing is, and new photographs while the page is at its top. */
async function poll() {
  const state = await ask("/status");
  if (state.error !== undefined && state.running === undefined) return; // the server has ended
  const leftOut = state.left_out ?? [];
  element.indexing.hidden = !state.running && !state.error && !leftOut.length;
  element.progress.hidden = !state.running;
  element.why.hidden = state.running || !leftOut.length;
  if (state.running) {
    const minutes = Math.round(state.seconds_left / 60);
    const left = state.seconds_left === null ? "" : text.left(minutes);
    element.progress.max = state.total || 1;
    if (state.total) element.progress.value = state.done;
    else element.progress.removeAttribute("value");
    element["progress-text"].textContent = state.total
      ? text.progress(count(state.done), count(state.total), count(state.files), left)
      : text.looking;
  } else {
    element["progress-text"].textContent = state.error || leftOut.join(" · ");
  }
  const isDue = !grid.parts.length || !state.running || Date.now() - refreshed > REFRESH_MS;
  const isQuiet = scrollY < 100 && !element.viewer.open && location.hash.length < 2;
  if (files !== null && state.files !== files && isDue && isQuiet) {
    refreshed = Date.now();
    files = state.files;
    show();
  }
  files ??= state.files;
  if (state.running) setTimeout(poll, POLL_MS);
}

document.documentElement.lang = language;
for (const each of document.querySelectorAll("[data-text]")) each.textContent = text[each.dataset.text];
for (const each of document.querySelectorAll("[data-label]")) {
  each.ariaLabel = text[each.dataset.label];
  if (each.matches("button")) each.title = text[each.dataset.label];
}
element.q.placeholder = text.example;
setDetails(localStorage.getItem("details") === "true");

element.form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
element.q.addEventListener("search", () => element.q.value || submit()); // the cross of the field
element.sort.addEventListener("change", submit);
element.filter.addEventListener("click", () => toggleFilters(element.filters.hidden));
for (const name of ["left-out", "why"]) element[name].addEventListener("click", showLeftOut);
element.done.addEventListener("click", () => element.dialog.close());
element.menu.addEventListener("click", () => element.menu.hidePopover());
element.details.addEventListener("click", () => {
  const isOn = element.details.ariaPressed !== "true";
  localStorage.setItem("details", isOn);
  setDetails(isOn);
});
element.choose.addEventListener("click", () => element.file.click());
element.file.addEventListener("change", () => searchWith(element.file.files[0]).then(() => (element.file.value = "")));
addEventListener("paste", (event) => {
  const image = [...event.clipboardData.files].find((file) => file.type.startsWith("image/"));
  if (image) event.preventDefault();
  searchWith(image);
});
addEventListener("dragover", (event) => {
  event.preventDefault();
  element.drop.hidden = false;
});
addEventListener("dragleave", (event) => (element.drop.hidden = !event.relatedTarget));
addEventListener("dragend", () => (element.drop.hidden = true));
addEventListener("drop", (event) => {
  event.preventDefault();
  element.drop.hidden = true;
  const id = event.dataTransfer.getData("text/x-dcclip");
  if (id) visit({ ...parameters(), example: "", like: id });
  else searchWith([...event.dataTransfer.files].find((file) => file.type.startsWith("image/")));
});
addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.isComposing) return;
  if (event.key === "/" && !document.activeElement.matches("input")) {
    event.preventDefault();
    element.q.select();
  } else if (event.key === "Escape" && element.menu.matches(":popover-open")) {
    return;
  } else if (event.key === "Escape" && location.hash.length > 1) {
    event.preventDefault();
    visit({});
    element.q.focus({ preventScroll: true });
  } else if (event.key === "ArrowDown" && document.activeElement === element.q) {
    event.preventDefault();
    grid.current?.focus();
  }
});
addEventListener("hashchange", follow);

history.scrollRestoration = "manual";
const header = document.querySelector("header");
new ResizeObserver(() => {
  document.documentElement.style.setProperty("--header", `${header.offsetHeight}px`);
}).observe(header);
fill(parameters()); // before the first answer, while nothing can have been typed
await poll();
await follow();
element.q.focus({ preventScroll: true });
