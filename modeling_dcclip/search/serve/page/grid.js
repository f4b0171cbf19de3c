// The photographs in justified rows: the timeline of all by month, or the results of a search.
//
// A section has a heading and parts. Only what is near the window is in the document: a part that goes far away is
// emptied and keeps its height, and so does a section of the timeline, with all its parts.

import { OPEN, breakRows } from "./layout.js";
import { address } from "./server.js";
import { count, dateName, monthName, shortMonth, text } from "./texts.js";

const CHUNK = 100; // photographs of a part at most
const AHEAD = "1000px"; // how far outside the window they are shown
const DWELL_MS = 60; // how long a part is near before its photographs are loaded: not while someone scrolls past
const USUAL = 1.4; // width of a photograph divided by its height

export function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

const shape = (hit) => Math.min(4, Math.max(0.4, hit.ratio));

export class Grid {
  /** `click(hit)` is called for a photograph; `root` is the element of the grid, `years` that of the scrubber. */
  constructor(root, years, click) {
    Object.assign(this, { root, years, click, sections: [], of: new WeakMap(), current: null, width: 0 });
    this.watcher = new IntersectionObserver(
      (entries) => entries.forEach((entry) => this.of.get(entry.target)?.near(entry.isIntersecting)),
      { rootMargin: AHEAD },
    );
    root.addEventListener("keydown", (event) => this.move(event));
    addEventListener("scroll", () => (this.marking ??= requestAnimationFrame(() => this.markMonth())), { passive: true });
    new ResizeObserver(() => this.measure() && this.refill()).observe(root);
  }

  get parts() {
    return this.sections.flatMap((section) => section.parts);
  }

  clear() {
    this.watcher.disconnect();
    this.root.replaceChildren();
    this.root.classList.remove("timeline", "loading");
    this.years.replaceChildren();
    this.years.hidden = true;
    [this.sections, this.current, this.marked] = [[], null, null];
    this.measure();
  }

  /** A message in place of photographs, and what to do about it. */
  say(title, help, button) {
    this.clear();
    this.root.append(make("div", { className: "empty" }, make("strong", {}, title), help ?? "", button ?? ""));
  }

  /** Months, each `[month, number of photographs]`, whose photographs are loaded when they come near. */
  showTimeline(months, fetchHits) {
    this.clear();
    this.root.classList.add("timeline");
    this.measure();
    let skip = 0;
    for (const [month, number] of months) {
      const section = this.section(monthName(month));
      Object.assign(section, { month, number });
      for (let done = 0; done < number; done += CHUNK) {
        const size = Math.min(CHUNK, number - done);
        const from = skip + done;
        this.part(section, { size, goOn: done + size < number, fetch: () => fetchHits(from, size) });
      }
      section.fold();
      this.watcher.observe(section.element);
      skip += number;
    }
    this.years.hidden = months.length < 2;
    this.listYears();
    this.markMonth();
  }

  /** A section of photographs that are here, under an optional title. */
  showHits(hits, title, className = "") {
    const section = this.section(title, className);
    this.add(section, hits);
    return section;
  }

  /** A new section at the end, without photographs. */
  section(title, className = "") {
    const heading = title ? [make("h2", {}, title)] : [];
    const section = { element: make("section", { className }, ...heading), heading, parts: [] };
    section.fold = () => {
      const height = section.parts.reduce((sum, part) => sum + part.height, 0);
      section.parts.forEach((part) => this.empty(part));
      section.element.replaceChildren(...heading, make("div"));
      section.element.lastChild.style.height = `${height}px`;
    };
    section.near = (isNear) => {
      const isFolded = !section.parts[0].element.isConnected;
      if (isNear && isFolded) {
        section.element.replaceChildren(...heading, ...section.parts.map((part) => part.element));
        section.parts.forEach((part) => this.watcher.observe(part.element));
      } else if (!isNear && !isFolded && !section.element.contains(document.activeElement)) {
        section.parts.forEach((part) => this.watcher.unobserve(part.element));
        section.fold();
      }
    };
    this.of.set(section.element, section);
    this.sections.push(section);
    this.root.append(section.element);
    return section;
  }

  /** A part of a section: `hits`, or `size` photographs that `fetch` loads; they `goOn` in the next part. */
  part(section, settings) {
    const part = { element: make("div", { className: "rows" }), section, hits: null, goOn: false, ...settings };
    part.load = () => (part.loading ??= part.fetch().then((hits) => (part.hits = hits)));
    part.near = (isNear) => {
      part.isNear = isNear;
      if (!isNear) this.empty(part);
      else if (part.hits) this.fill(part);
      else setTimeout(() => part.isNear && part.load().then(() => part.isNear && this.fill(part)), DWELL_MS);
    };
    this.of.set(part.element, part);
    this.reserve(part, this.rowsHeight(part.hits?.length ?? part.size));
    section.parts.push(part);
    return part;
  }

  /** Show more photographs at the end of a section of results. */
  add(section, hits, goOn = false) {
    const part = this.part(section, { hits, goOn });
    section.element.append(part.element);
    this.fill(part);
    this.watcher.observe(part.element);
  }

  /** Call a function once the end of the results comes near. */
  atEnd(load) {
    const end = make("section");
    this.of.set(end, {
      near: (isNear) => {
        if (!isNear) return;
        end.remove();
        load();
      },
    });
    this.root.append(end);
    this.watcher.observe(end);
  }

  measure() {
    const style = getComputedStyle(this.root);
    const width = this.root.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const hasChanged = Math.abs(width - this.width) > 1;
    [this.width, this.row, this.gap] = [width, ...["--row", "--gap"].map((name) => parseFloat(style.getPropertyValue(name)))];
    return hasChanged;
  }

  /** About the height that a number of photographs will take. */
  rowsHeight(number) {
    return Math.ceil((number * (this.row * USUAL + this.gap)) / this.width) * (this.row + this.gap);
  }

  reserve(part, height) {
    part.height = height;
    part.element.style.minHeight = `${height}px`;
  }

  /** Whether photographs fill at least one row. */
  fillsRow(hits) {
    return hits.reduce((sum, hit) => sum + shape(hit), 0) * this.row >= this.width * 0.9;
  }

  /** Put the photographs of a part into the document. */
  fill(part) {
    const inRows = (this.width + this.gap) / (this.row + this.gap);
    const ends = breakRows(part.hits.map(shape), inRows, part.goOn);
    const rows = ends.map((end, place) => {
      const hits = part.hits.slice(ends[place - 1] ?? 0, end);
      const row = make("div", { className: "row" }, ...hits.map((hit) => (hit.figure ??= this.figure(hit))));
      const isFull = hits.reduce((sum, hit) => sum + shape(hit), 0) >= inRows / OPEN;
      row.classList.toggle("open", !isFull && end === part.hits.length && !part.goOn);
      return row;
    });
    part.element.style.minHeight = "";
    part.element.replaceChildren(...rows);
    part.isShown = true;
    part.section.element.hidden = !part.section.parts.some((each) => (each.hits ? each.hits.length : each.size));
  }

  /** Take them out again, unless the focus is on one of them. */
  empty(part) {
    if (!part.isShown || part.element.contains(document.activeElement)) return;
    this.reserve(part, part.element.offsetHeight);
    part.element.replaceChildren();
    part.isShown = false;
    for (const hit of part.hits) hit.figure = null;
    if (this.current && !this.current.isConnected) this.setCurrent(this.root.querySelector(".tile"));
  }

  /** Break the rows again, such as after a change of the width; `isNew` makes all tiles again. */
  refill(isNew = false) {
    const focused = document.activeElement;
    for (const part of this.parts) {
      if (!part.isShown) continue;
      if (isNew) part.hits.forEach((hit) => (hit.figure = null));
      this.fill(part);
    }
    if (focused !== document.activeElement) focused.focus({ preventScroll: true });
  }

  figure(hit) {
    const isVideo = hit.seconds !== null;
    const badge = [isVideo && `▶ ${hit.time}`, hit.words.length && text.inName].filter(Boolean).join(" · ");
    const name = [dateName(hit.date), hit.name, isVideo && text.video, badge].filter(Boolean).join(", ");
    const tile = make(
      "button",
      { type: "button", className: "tile", ariaLabel: name, title: hit.path, draggable: true },
      hit.is_current
        ? make("img", { src: address("thumbnail", hit), alt: "", loading: "lazy", decoding: "async" })
        : make("span", { className: "gone" }, text.gone),
    );
    if (badge) tile.append(make("span", { className: "badge" }, badge));
    tile.addEventListener("click", () => this.click(hit));
    tile.addEventListener("focus", () => this.setCurrent(tile));
    tile.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/x-dcclip", hit.id));
    tile.tabIndex = this.current ? -1 : 0; // Tab enters the grid once; arrows move inside
    this.current ??= tile;
    const figure = make("figure", {}, tile);
    if (this.root.classList.contains("detailed")) figure.append(this.caption(hit));
    figure.style.setProperty("--ratio", shape(hit));
    this.of.set(tile, hit);
    return figure;
  }

  caption(hit) {
    const facts = [hit.date.slice(0, 16), hit.score ? hit.score.toFixed(3) : "", hit.copies ? text.copies(hit.copies) : ""];
    return make("figcaption", {}, make("span", { className: "line" }, hit.name), make("span", {}, facts.filter(Boolean).join(" · ")));
  }

  setCurrent(tile) {
    if (this.current) this.current.tabIndex = -1;
    this.current = tile;
    if (tile) tile.tabIndex = 0;
  }

  /** Arrow keys: to the next photograph, or to the nearest one in the next row. */
  move(event) {
    const hit = this.of.get(document.activeElement);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!hit || !step || event.altKey || event.metaKey) return; // Alt and Left go back
    event.preventDefault();
    const tiles = [...this.root.querySelectorAll(".tile")];
    const from = tiles.indexOf(document.activeElement);
    let to = from + step;
    if (event.key === "ArrowUp" || event.key === "ArrowDown") {
      const middle = (tile) => tile.getBoundingClientRect().left + tile.offsetWidth / 2;
      const top = (tile) => tile.getBoundingClientRect().top;
      while (tiles[to] && top(tiles[to]) === top(tiles[from])) to += step;
      const row = tiles.filter((tile) => tiles[to] && top(tile) === top(tiles[to]));
      row.sort((one, other) => Math.abs(middle(one) - middle(tiles[from])) - Math.abs(middle(other) - middle(tiles[from])));
      to = tiles.indexOf(row[0]);
    }
    tiles[to]?.focus();
  }

  /** Scroll to a photograph, and focus it. */
  reveal(hit) {
    const part = this.parts.find((each) => each.hits?.some((other) => other.id === hit.id));
    if (!part) return;
    part.section.near(true);
    if (!part.isShown) this.fill(part);
    const { figure } = part.hits.find((other) => other.id === hit.id);
    figure.scrollIntoView({ block: "nearest" });
    figure.firstChild.focus({ preventScroll: true });
  }

  /** The photograph of an id, if it is among the results that are loaded, or in a month of the timeline. */
  async find(id, month) {
    for (const part of this.parts) {
      if (!part.hits && part.section.month === month) await part.load();
      const found = part.hits?.find((hit) => hit.id === id);
      if (found) return found;
    }
    return null;
  }

  /** The photograph after another one (`step` 1) or before it (-1); null at the end. */
  async neighbor(hit, step) {
    const parts = this.parts;
    let number = parts.findIndex((part) => part.hits?.includes(hit));
    if (number < 0) return null;
    const next = parts[number].hits[parts[number].hits.indexOf(hit) + step];
    if (next) return next;
    for (number += step; parts[number]; number += step) {
      const hits = parts[number].hits ?? (await parts[number].load());
      if (hits.length) return hits.at(step > 0 ? 0 : -1);
    }
    return null;
  }

  listYears() {
    for (const [year, sections] of Map.groupBy(this.sections, ({ month }) => month.slice(0, 4))) {
      const total = sections.reduce((sum, { number }) => sum + number, 0);
      this.years.append(this.jump(year, total, sections[0]));
    }
  }

  /** A button that leads to a month. */
  jump(name, number, { element, month }) {
    const button = make("button", { type: "button" }, name, make("small", {}, count(number)));
    button.dataset.month = month;
    button.addEventListener("click", () => element.scrollIntoView());
    return button;
  }

  /** Mark the month at the top of the window, and list the months of its year. */
  markMonth() {
    this.marking = null;
    if (this.years.hidden || !this.sections.length) return;
    const line = document.querySelector("header").offsetHeight + 60;
    let [low, high] = [0, this.sections.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.sections[middle].element.getBoundingClientRect().top < line) low = middle;
      else high = middle - 1;
    }
    const { month } = this.sections[low];
    if (month === this.marked) return;
    this.marked = month;
    const inYear = this.sections.filter((section) => section.month.slice(0, 4) === month.slice(0, 4));
    const months = make("div", {}, ...inYear.map((section) => this.jump(shortMonth(section.month), section.number, section)));
    this.years.querySelector("div")?.remove();
    for (const button of [...this.years.children, ...months.children]) {
      const isYear = button.parentElement === this.years;
      button.ariaCurrent = String(isYear ? button.dataset.month === inYear[0].month : button.dataset.month === month);
      if (isYear && button.ariaCurrent === "true") button.after(months);
    }
    this.years.querySelector("div [aria-current=true]").scrollIntoView({ block: "nearest", inline: "nearest" });
  }
}
