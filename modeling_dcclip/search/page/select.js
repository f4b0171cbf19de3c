// Photographs that are selected, and what can be done with them.

import { make } from "./grid.js";
import { ask, send } from "./server.js";
import { bytes, count, text } from "./texts.js";

const LISTED = 8; // paths in a dialog
const TOAST_MS = 8000;
const UNDO_MS = 60_000; // how long an undo is offered

export class Selection {
  /** `changed()` is called after each change; `between(one, other)` gives the photographs from one to another. */
  constructor(changed, between) {
    Object.assign(this, { changed, between, hits: new Map(), anchor: null, isOn: false });
  }

  get size() {
    return this.hits.size;
  }

  has(hit) {
    return this.hits.has(hit.id);
  }

  /** Select some photographs and no others; without any, clicks open photographs again unless `isOn`. */
  set(hits, isOn = hits.length > 0) {
    this.hits = new Map(hits.map((hit) => [hit.id, hit]));
    this.anchor = null;
    this.isOn = isOn;
    this.changed();
  }

  /** Select a photograph or not; with shift, all from the last one to it. */
  click(hit, event) {
    if (event.shiftKey && this.anchor) {
      this.extend(this.anchor, hit);
      return;
    }
    if (!this.hits.delete(hit.id)) this.hits.set(hit.id, hit);
    this.anchor = hit;
    this.isOn = true;
    this.changed();
  }

  async extend(one, other) {
    for (const hit of await this.between(one, other)) this.hits.set(hit.id, hit);
    this.anchor = other;
    this.changed();
  }
}

export class Actions {
  /** `elements` by their ids; `removed(ids)` and `restored()` tell which photographs went to the trash and came back. */
  constructor(elements, selection, removed, restored) {
    Object.assign(this, { elements, selection, removed, restored });
    for (const name of ["copy", "copy-image", "copy-paths"]) elements[name].hidden = !navigator.clipboard; // without https
    elements.unselect.addEventListener("click", () => selection.set([]));
    elements["copy-paths"].addEventListener("click", () => this.copyPaths());
    elements.export.addEventListener("click", () => this.export([...selection.hits.values()]));
    elements.trash.addEventListener("click", () => this.trash([...selection.hits.values()]));
  }

  /** Show how many photographs are selected; only the page on the same machine `isLocal` may write files. */
  show(isLocal) {
    const { size, hits, isOn } = this.selection;
    const taken = [...hits.values()].reduce((sum, hit) => sum + hit.bytes, 0);
    this.elements.actions.hidden = !isOn;
    document.documentElement.classList.toggle("selecting", isOn);
    for (const name of ["copy-paths", "export", "trash"]) this.elements[name].disabled = !size;
    this.elements.chosen.textContent = isOn ? text.chosen(count(size), Number.isNaN(taken) ? "" : bytes(taken)) : "";
    for (const name of ["export", "trash", "open", "reveal", "trash-one"]) this.elements[name].hidden = !isLocal;
  }

  async copyPaths() {
    const paths = [...this.selection.hits.values()].map((hit) => hit.path);
    await navigator.clipboard.writeText(paths.join("\n"));
    this.toast(text.pathsCopied(count(paths.length)));
  }

  /** Ask before something is done; the answer is whether to do it. */
  confirm(title, content, button, canCancel = true) {
    const { dialog } = this.elements;
    const confirm = make("button", { type: "button", className: "primary" }, button);
    const cancel = make("button", { type: "button" }, text.cancel);
    const heading = make("h2", { id: "dialog-title" }, title);
    dialog.setAttribute("aria-labelledby", heading.id);
    dialog.replaceChildren(heading, ...content, make("p", { className: "buttons" }, ...(canCancel ? [cancel] : []), confirm));
    return new Promise((resolve) => {
      const answer = (isYes) => {
        dialog.close();
        resolve(isYes);
      };
      confirm.addEventListener("click", () => answer(true));
      cancel.addEventListener("click", () => answer(false));
      dialog.oncancel = () => resolve(false);
      dialog.onkeydown = (event) => {
        if (event.key === "Enter" && event.target.matches("input[type=text]")) answer(true);
      };
      dialog.showModal();
      dialog.querySelector("input, .primary").focus();
    });
  }

  async export(hits) {
    const folder = make("input", { type: "text", size: 40, value: localStorage.getItem("folder") ?? "~/Pictures/DC-CLIP" });
    const choice = (value, checked) => make("input", { type: "radio", name: "kind", value, checked });
    const zip = choice("zip", false);
    const content = [
      make("label", { className: "field" }, text.folder, folder),
      make("label", {}, choice("files", true), text.asFiles),
      make("label", {}, zip, text.asZip),
    ];
    if (!(await this.confirm(text.exportTitle(count(hits.length)), content, text.copy))) return;
    localStorage.setItem("folder", folder.value);
    this.toast(text.working);
    const answer = await this.send("/copy", { ids: hits.map((hit) => hit.id), folder: folder.value, zip: zip.checked });
    if (answer.error) this.toast(answer.error);
    else this.report(text.exported(count(answer.number), answer.target), answer.failed);
  }

  /** Move photographs to the trash of the system, after a question. */
  async trash(hits) {
    const content = [this.list(hits.map((hit) => hit.path)), make("p", {}, text.trashHelp)];
    if (!(await this.confirm(text.trashTitle(count(hits.length)), content, text.trashConfirm))) return;
    this.toast(text.working);
    const answer = await this.send("/trash", { ids: hits.map((hit) => hit.id) });
    if (answer.error) {
      this.toast(answer.error);
      return;
    }
    this.selection.set(hits.filter((hit) => !answer.moved.includes(hit.id)));
    this.removed(new Set(answer.moved));
    const undo = make("button", { type: "button" }, text.undo);
    undo.addEventListener("click", () => this.undo(answer.moved));
    this.report(text.trashed(count(answer.moved.length)), answer.failed, ...(answer.moved.length ? [undo] : []));
  }

  async undo(ids) {
    const answer = await this.send("/restore", { ids });
    if (answer.error) this.toast(answer.error);
    else this.report(text.restored(count(answer.moved.length)), answer.failed);
    this.restored();
  }

  send(path, content) {
    return send(path, JSON.stringify(content));
  }

  /** What was left out of the index, and why. */
  async showLeftOut() {
    const answer = await ask("/left-out");
    const content = (answer.causes ?? []).flatMap(({ cause, paths }) => [make("h3", {}, cause), this.list(paths)]);
    if (!content.length) content.push(make("p", {}, answer.error ?? text.nothingLeftOut));
    this.confirm(text.leftOut, content, text.close, false);
  }

  /** A list of the first paths, and how many others there are. */
  list(paths) {
    const others = paths.length > LISTED ? [text.andMore(count(paths.length - LISTED))] : [];
    return make("ul", {}, ...[...paths.slice(0, LISTED), ...others].map((path) => make("li", {}, path)));
  }

  report(done, failed, ...buttons) {
    const parts = failed.length ? [text.failed(count(failed.length), `${failed[0].path} (${failed[0].cause})`)] : [];
    this.toast([done, ...parts].join(" · "), ...buttons);
  }

  /** Say something for a while at the bottom of the window. */
  toast(message, ...buttons) {
    const { toast } = this.elements;
    toast.replaceChildren(make("span", {}, message), ...buttons);
    toast.hidden = false;
    (document.querySelector("dialog[open]") ?? document.body).append(toast); // what is outside a dialog is below it
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (toast.hidden = true), buttons.length ? UNDO_MS : TOAST_MS);
    for (const button of buttons) button.addEventListener("click", () => (toast.hidden = true));
  }
}
