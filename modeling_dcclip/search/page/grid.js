// The photographs in justified rows: the timeline of all by month, or the results of a search.

import { address } from "./server.js";
import { dateName, monthName, text } from "./texts.js";

const CHUNK = 100; // photographs of a month that are loaded at once
const AHEAD = "1500px"; // how far below the window they are loaded

export function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export class Grid {
  /** `open(hit)` shows a photograph; `root` is the element of the grid, `years` that of the scrubber. */
  constructor(root, years, open) {
    Object.assign(this, { root, years, open, parts: [], partOf: new WeakMap(), current: null });
    this.watcher = new IntersectionObserver(
      (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => this.partOf.get(entry.target).load()),
      { rootMargin: AHEAD },
    );
    root.addEventListener("keydown", (event) => this.move(event));
    addEventListener("scroll", () => this.markYear(), { passive: true });
  }

  clear() {
    this.watcher.disconnect();
    this.root.replaceChildren();
    this.root.classList.remove("timeline", "loading");
    this.years.replaceChildren();
    this.years.hidden = true;
    [this.parts, this.current] = [[], null];
  }

  /** A message in place of photographs, and what to do about it. */
  say(title, help, button) {
    this.clear();
    this.root.append(make("div", { className: "empty" }, make("strong", {}, title), help ?? "", button ?? ""));
  }

  /** Sections for months, each `[month, number of photographs]`, whose photographs are loaded when they come near. */
  showTimeline(months, fetchHits) {
    this.clear();
    this.root.classList.add("timeline");
    let skip = 0;
    for (const [month, number] of months) {
      for (let done = 0; done < number; done += CHUNK) {
        const size = Math.min(CHUNK, number - done);
        const from = skip + done;
        const part = this.add(done ? null : monthName(month), () => fetchHits(from, size), month.slice(0, 4));
        this.reserve(part, size);
      }
      skip += number;
    }
    const years = [...new Set(this.parts.map((part) => part.year))];
    if (years.length < 2) return;
    this.years.hidden = false;
    for (const year of years) {
      const button = make("button", { type: "button" }, year);
      button.addEventListener("click", () => this.parts.find((part) => part.year === year).element.scrollIntoView());
      this.years.append(button);
    }
    this.markYear();
  }

  /** A section of photographs that are here, under an optional title. */
  showHits(hits, title, className = "") {
    const part = this.add(title);
    part.element.className = className;
    this.fill(part, hits);
    return part;
  }

  /** A section whose photographs come from `fetchHits` when it comes near, if it is given. */
  add(title, fetchHits, year) {
    const rows = make("div", { className: "rows" });
    const element = make("section", {}, ...(title ? [make("h2", {}, title)] : []), rows);
    const part = { element, rows, year, hits: [], isLoaded: !fetchHits };
    part.load = () => {
      part.loading ??= fetchHits().then((hits) => {
        part.isLoaded = true;
        this.fill(part, hits);
      });
      return part.loading;
    };
    this.partOf.set(element, part);
    this.parts.push(part);
    this.root.append(element);
    if (fetchHits) this.watcher.observe(element);
    return part;
  }

  /** Keep about the height that a number of photographs will take. */
  reserve(part, number) {
    const row = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--row"));
    const rows = Math.ceil((number * row * 1.35) / this.root.clientWidth);
    part.rows.style.minHeight = `${rows * row}px`;
  }

  fill(part, hits) {
    part.rows.style.minHeight = "";
    part.hits = part.hits.concat(hits);
    part.rows.append(...hits.map((hit) => this.tile(hit)));
    part.element.hidden = !part.hits.length;
  }

  tile(hit) {
    const isVideo = hit.seconds !== null;
    const name = `${dateName(hit.date)}, ${hit.name}${isVideo ? `, ${text.video}` : ""}`;
    const facts = [hit.date.slice(0, 16), hit.score ? hit.score.toFixed(3) : "", hit.copies ? text.copies(hit.copies) : ""];
    const tile = make(
      "button",
      { type: "button", className: "tile", ariaLabel: name, title: hit.path, draggable: true },
      hit.is_current
        ? make("img", { src: address("thumbnail", hit), alt: "", loading: "lazy", decoding: "async" })
        : make("span", { className: "gone" }, text.gone),
    );
    if (isVideo) tile.append(make("span", { className: "badge" }, `▶ ${hit.time}`));
    tile.addEventListener("click", () => this.open(hit));
    tile.addEventListener("focus", () => this.setCurrent(tile));
    tile.addEventListener("dragstart", (event) => event.dataTransfer.setData("text/x-dcclip", hit.id));
    tile.tabIndex = this.current ? -1 : 0; // Tab enters the grid once; arrows move inside
    this.current ??= tile;
    const caption = make("figcaption", {}, make("span", {}, hit.name), make("span", {}, facts.filter(Boolean).join(" · ")));
    const figure = make("figure", {}, tile, caption);
    figure.style.setProperty("--ratio", Math.min(4, Math.max(0.4, hit.ratio)));
    hit.tile = tile;
    return figure;
  }

  setCurrent(tile) {
    if (this.current) this.current.tabIndex = -1;
    this.current = tile;
    tile.tabIndex = 0;
  }

  /** Arrow keys: to the next photograph, or to the nearest one in the next row. */
  move(event) {
    const tiles = [...this.root.querySelectorAll(".tile")];
    const from = tiles.indexOf(document.activeElement);
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (from < 0 || !step || event.altKey || event.metaKey) return; // Alt and Left go back
    event.preventDefault();
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

  /** The photograph after another one (`step` 1) or before it (-1); null at the end. */
  async neighbor(hit, step) {
    for (;;) {
      let number = this.parts.findIndex((part) => part.hits.includes(hit));
      const inside = this.parts[number]?.hits;
      if (!inside) return null;
      const next = inside[inside.indexOf(hit) + step];
      if (next) return next;
      do number += step;
      while (this.parts[number]?.isLoaded && !this.parts[number].hits.length);
      const part = this.parts[number];
      if (!part) return null;
      if (part.isLoaded) return part.hits.at(step > 0 ? 0 : -1);
      await part.load(); // which may also add to the part before it
    }
  }

  markYear() {
    if (this.years.hidden) return;
    const line = document.querySelector("header").offsetHeight + 60;
    const above = this.parts.filter((part) => part.element.getBoundingClientRect().top < line);
    const year = (above.at(-1) ?? this.parts[0]).year;
    for (const button of this.years.children) button.ariaCurrent = String(button.textContent === year);
  }
}
