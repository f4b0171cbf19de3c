// One photograph or video large over the page.

import { address, send } from "./server.js";
import { dateName, text } from "./texts.js";

const SWIPE = 50; // pixels
const WHEEL_MS = 250; // between two photographs

export class Viewer {
  /** `elements` by their ids; `neighbor(hit, step)` finds the next photograph, `search(changes)` starts a search. */
  constructor(elements, neighbor, search) {
    Object.assign(this, { ...elements, dialog: elements.viewer, neighbor, search, hit: null, turned: 0 });
    this.previous.addEventListener("click", () => this.step(-1));
    this.next.addEventListener("click", () => this.step(1));
    this.close.addEventListener("click", () => history.back());
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault(); // Esc goes back as well, so that the history has no photograph that is closed
      history.back();
    });
    addEventListener("popstate", () => this.hide());
    addEventListener("keydown", (event) => this.key(event)); // wherever the focus is
    this.dialog.addEventListener("wheel", (event) => this.turn(event), { passive: true });
    this.stage.addEventListener("touchstart", (event) => (this.touch = event.touches.length === 1 ? event.touches[0] : null), { passive: true });
    this.stage.addEventListener("touchend", (event) => this.swipe(event.changedTouches[0]), { passive: true });
    this.copy.addEventListener("click", () => this.copyPath());
    this.similar.addEventListener("click", () => {
      const { id } = this.hit;
      addEventListener("popstate", () => this.search({ q: "", sort: "", example: "", like: id }), { once: true });
      history.back();
    });
    this.open.addEventListener("click", async () => {
      const answer = await send(`/open/${this.hit.id}`);
      if (answer.error) this.complain(answer.error);
    });
    this.video.addEventListener("error", () => {
      if (!this.video.hidden) this.complain(text.broken);
      this.video.hidden = true;
    });
  }

  show(hit, canOpen) {
    this.open.hidden = !canOpen;
    if (!this.dialog.open) {
      history.pushState({ viewing: true }, "");
      this.dialog.showModal();
      this.dialog.focus();
    }
    this.put(hit);
  }

  hide() {
    if (!this.dialog.open) return;
    this.stop();
    this.dialog.close();
    this.hit?.tile?.scrollIntoView({ block: "nearest" });
    this.hit?.tile?.focus({ preventScroll: true });
    this.hit = null;
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
    this.stop();
    const isVideo = hit.seconds !== null;
    this.broken.hidden = hit.is_current;
    this.broken.textContent = text.gone;
    this.date.textContent = dateName(hit.date);
    this.name.textContent = hit.name;
    this.folder.textContent = hit.folder;
    this.dialog.ariaLabel = this.large.alt = `${hit.name}, ${dateName(hit.date)}`;
    this.large.classList.remove("sharp");
    this.large.src = address("thumbnail", hit);
    this.video.hidden = !isVideo;
    if (isVideo) {
      this.video.src = `${address("video", hit)}#t=${hit.seconds}`;
      this.video.play().catch(() => {}); // a browser may refuse to play with sound
    } else {
      this.load(hit);
    }
    const [before, after] = await Promise.all([this.neighbor(hit, -1), this.neighbor(hit, 1)]);
    if (this.hit !== hit) return;
    this.previous.disabled = !before;
    this.next.disabled = !after;
    for (const each of [after, before]) {
      if (each && each.seconds === null && each.is_current) new Image().src = address("photo", each);
    }
  }

  /** Replace the thumbnail as soon as the large image is decoded. */
  async load(hit) {
    const image = new Image();
    image.src = address("photo", hit);
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
    const next = from && (await this.neighbor(from, step));
    if (next && this.hit === from) this.put(next);
  }

  key(event) {
    if (!this.dialog.open || event.target === this.video) return; // a video seeks with arrows
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

  swipe(end) {
    if (!this.touch || visualViewport.scale > 1) return;
    const [x, y] = [end.clientX - this.touch.clientX, end.clientY - this.touch.clientY];
    this.touch = null;
    if (y > 2 * SWIPE && y > 2 * Math.abs(x)) history.back();
    else if (Math.abs(x) > SWIPE && Math.abs(x) > Math.abs(y)) this.step(x < 0 ? 1 : -1);
  }

  async copyPath() {
    try {
      await navigator.clipboard.writeText(this.hit.path);
    } catch {
      getSelection().selectAllChildren(this.folder); // without the right to write, a person copies it
      return;
    }
    this.copy.textContent = text.copied;
    setTimeout(() => (this.copy.textContent = text.copy), 1500);
  }
}
