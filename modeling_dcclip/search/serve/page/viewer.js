// One photograph or video large over the page. Its id is in the address.

import { make } from "./grid.js";
import { address, ask } from "./server.js";
import { bytes, dateName, text } from "./texts.js";
import { Zoom } from "./zoom.js";

const SWIPE = 50; // pixels
const WHEEL_MS = 250; // between two photographs
const DONE_MS = 1500; // how long a button says that it has copied

/** A text with the words that were searched for marked. */
function marked(content, words) {
  const quoted = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const parts = quoted.length ? content.split(new RegExp(`(${quoted.join("|")})`, "i")) : [content];
  return parts.map((part, place) => (place % 2 ? make("mark", {}, part) : part));
}

export class Viewer {
  /** `elements` by their ids; `search(changes)` starts a search. */
  constructor(elements, grid, search) {
    Object.assign(this, { ...elements, element: elements, dialog: elements.viewer, grid, search, hit: null, turned: 0 });
    this.zoom = new Zoom(this.stage, this.large, {
      swipe: (x, y) => this.swipe(x, y),
      enlarged: () => this.load(this.hit, "whole"),
    });
    this.previous.addEventListener("click", () => this.step(-1));
    this.next.addEventListener("click", () => this.step(1));
    this.close.addEventListener("click", () => this.end());
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault(); // Esc goes back as well, so that the history has no photograph that is closed
      this.end();
    });
    addEventListener("keydown", (event) => this.key(event)); // wherever the focus is
    this.dialog.addEventListener("wheel", (event) => this.turn(event), { passive: true });
    this.copy.hidden = !navigator.clipboard; // without https, from a different machine
    this.copy.addEventListener("click", () => this.copyPath());
    this.similar.addEventListener("click", () => this.search({ q: "", sort: "", example: "", like: this.hit.id }));
    this.video.addEventListener("error", () => {
      if (!this.video.hidden) this.complain(text.broken);
      this.video.hidden = true;
    });
  }

  /** Show a photograph of the grid, with an entry of its own in the history. */
  show(hit) {
    history.pushState({ isOpened: true }, "", this.hash(hit.id));
    this.put(hit);
  }

  /** Show the photograph that the address names. */
  async showById(id) {
    const hit = await ask(`/hit/${encodeURIComponent(id)}`);
    if (hit.error) {
      this.end();
      this.element.status.textContent = hit.error;
      return;
    }
    this.put((await this.grid.find(id, hit.date.slice(0, 7))) ?? hit);
  }

  /** Close: back to the entry of the history before, unless the page was opened with the photograph. */
  end() {
    if (history.state?.isOpened) {
      history.back();
      return;
    }
    history.replaceState(null, "", this.hash(""));
    this.hide();
  }

  hash(id) {
    const fields = new URLSearchParams(location.hash.slice(1));
    if (id) fields.set("photo", id);
    else fields.delete("photo");
    return `#${fields}`;
  }

  hide() {
    if (!this.dialog.open) return;
    const { hit } = this;
    this.hit = null;
    this.stop();
    this.dialog.close();
    this.grid.reveal(hit);
  }

  stop() {
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load();
  }

  complain(message) {
    this.broken.textContent = message;
    this.broken.hidden = false;
  }

  async put(hit) {
    this.hit = hit;
    if (!this.dialog.open) {
      this.dialog.showModal();
      this.dialog.focus();
    }
    this.stop();
    this.zoom.reset();
    const isVideo = hit.seconds !== null;
    this.broken.hidden = hit.is_current;
    this.broken.textContent = text.gone;
    this.date.textContent = dateName(hit.date);
    this.name.replaceChildren(...marked(hit.name, hit.words));
    this.folder.replaceChildren(...marked(hit.folder, hit.words));
    this.size.textContent = bytes(hit.size);
    this.dialog.ariaLabel = this.large.alt = `${hit.name}, ${dateName(hit.date)}`;
    this.large.classList.remove("sharp");
    this.large.src = address("thumbnail", hit);
    this.video.hidden = !isVideo;
    if (isVideo) {
      this.video.src = `${address("video", hit)}#t=${hit.seconds}`;
      this.video.play().catch(() => {}); // a browser may refuse to play with sound
    } else {
      this.load(hit, "photo");
    }
    const [before, after] = await Promise.all([this.grid.neighbor(hit, -1), this.grid.neighbor(hit, 1)]);
    if (this.hit !== hit) return;
    this.previous.disabled = !before;
    this.next.disabled = !after;
    for (const each of [after, before]) {
      if (each && each.seconds === null && each.is_current) new Image().src = address("photo", each);
    }
  }

  /** Replace the smaller image as soon as a larger one is decoded. */
  async load(hit, kind) {
    const image = new Image();
    image.src = address(kind, hit);
    try {
      await image.decode();
    } catch {
      if (this.hit === hit) this.complain(text.gone);
      return;
    }
    if (this.hit !== hit) return;
    this.large.src = image.src;
    this.large.classList.add("sharp");
  }

  async step(step) {
    const from = this.hit;
    const next = from && (await this.grid.neighbor(from, step));
    if (next && this.hit === from) this.change(next);
  }

  change(hit) {
    history.replaceState(history.state, "", this.hash(hit.id));
    this.put(hit);
  }

  key(event) {
    if (!this.hit || this.element.dialog.open || event.target === this.video) return; // a video seeks with arrows
    if (["+", "-"].includes(event.key)) this.zoom.by(event.key === "+" ? 1.5 : 1 / 1.5);
    const step = { ArrowLeft: -1, ArrowUp: -1, PageUp: -1, ArrowRight: 1, ArrowDown: 1, PageDown: 1 }[event.key];
    if (!step || event.altKey || event.metaKey) return; // Alt and Left go back
    event.preventDefault();
    this.step(step);
  }

  turn(event) {
    const now = performance.now();
    if (event.ctrlKey || Math.abs(event.deltaY) < 4 || now - this.turned < WHEEL_MS) return;
    this.turned = now;
    this.step(Math.sign(event.deltaY));
  }

  swipe(x, y) {
    if (y > 2 * SWIPE && y > 2 * Math.abs(x)) this.end();
    else if (Math.abs(x) > SWIPE && Math.abs(x) > Math.abs(y)) this.step(x < 0 ? 1 : -1);
  }

  /** Copy the path, and say so on the button, or why it cannot be copied. */
  async copyPath() {
    try {
      await navigator.clipboard.writeText(this.hit.path);
    } catch (error) {
      this.complain(error.message);
      return;
    }
    this.copy.textContent = text.copied;
    setTimeout(() => (this.copy.textContent = text.copyPath), DONE_MS);
  }
}
