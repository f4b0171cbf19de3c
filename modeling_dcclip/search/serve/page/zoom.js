// A large photograph under fingers, mouse and wheel: pinch, double click and ctrl+wheel zoom, dragging moves it.

const MOST = 12; // times its size in the window
const DOUBLE = 2.5; // of a double click
const WHEEL = 300; // pixels of the wheel for a factor of e

export class Zoom {
  /** `on.swipe(x, y)` is called for a finger that moves a photograph in full view, `on.enlarged()` for the first zoom. */
  constructor(stage, image, on) {
    Object.assign(this, { stage, image, on, pointers: new Map() });
    this.reset();
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("dblclick", (event) => this.by(this.scale > 1 ? 0 : DOUBLE, event));
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) stage.addEventListener(name, (event) => this.up(event));
  }

  reset() {
    [this.scale, this.x, this.y, this.isSharp] = [1, 0, 0, false];
    this.draw();
  }

  /** Zoom by a factor, and keep the point of an event where it is. */
  by(factor, point) {
    const box = this.stage.getBoundingClientRect();
    const [x, y] = point ? [point.clientX - box.left - box.width / 2, point.clientY - box.top - box.height / 2] : [0, 0];
    const scale = Math.min(Math.max(this.scale * factor, 1), MOST);
    this.x = x - ((x - this.x) * scale) / this.scale;
    this.y = y - ((y - this.y) * scale) / this.scale;
    this.scale = scale;
    if (scale > 1 && !this.isSharp) this.on.enlarged();
    this.isSharp ||= scale > 1;
    this.draw();
  }

  draw() {
    const { clientWidth, clientHeight } = this.stage;
    const edge = (size) => (size * (this.scale - 1)) / 2; // how far it may be moved
    this.x = Math.min(Math.max(this.x, -edge(clientWidth)), edge(clientWidth));
    this.y = Math.min(Math.max(this.y, -edge(clientHeight)), edge(clientHeight));
    this.image.style.transform = this.scale > 1 ? `translate(${this.x}px, ${this.y}px) scale(${this.scale})` : "";
    this.stage.classList.toggle("zoomed", this.scale > 1);
  }

  wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    this.by(Math.exp(-event.deltaY / WHEEL), event);
  }

  down(event) {
    if (event.target !== this.image) return;
    this.stage.setPointerCapture?.(event.pointerId);
    this.pointers.set(event.pointerId, event);
    this.start = this.pointers.size === 1 && this.scale === 1 && event.pointerType === "touch" ? event : null;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const other = [...this.pointers.values()].find((each) => each.pointerId !== event.pointerId);
    this.pointers.set(event.pointerId, event);
    if (other) {
      const distance = (each) => Math.hypot(each.clientX - other.clientX, each.clientY - other.clientY);
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.by(distance(event) / Math.max(distance(before), 1), middle);
    } else if (this.scale > 1) {
      this.x += event.clientX - before.clientX;
      this.y += event.clientY - before.clientY;
      this.draw();
    }
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.start && event.type === "pointerup" && this.scale === 1) {
      this.on.swipe(event.clientX - this.start.clientX, event.clientY - this.start.clientY);
    }
    this.start = null;
  }
}
