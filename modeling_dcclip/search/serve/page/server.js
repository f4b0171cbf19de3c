// Requests to the server of the page.

import { text } from "./texts.js";

/** The JSON that the server answers; `error` tells what went wrong. */
export async function ask(address, options) {
  try {
    return await (await fetch(address, options)).json();
  } catch {
    return { error: text.unreachable };
  }
}

/** The same for a request that changes something or sends an image. */
export const send = (address, body) => ask(address, { method: "POST", headers: { "X-DCCLIP": "1" }, body });

/** Address of an image or a video of a photograph: its kind is thumbnail, photo or video. */
export const address = (kind, hit) => `/${kind}/${hit.id}?version=${hit.version}`;
