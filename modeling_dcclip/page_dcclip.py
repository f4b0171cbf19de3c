"""The page of `dcclip serve`: HTML, style and script, without anything from another server."""

HTML = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>DC-CLIP</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
<form id="form" role="search">
<input id="query" type="search" enterkeyhint="search" autocomplete="off" maxlength="2000"
 aria-label="搜索照片 / Search photographs" placeholder="海边的日落 / sunset at the sea">
<button>搜索 / Search</button>
</form>
<p id="status" role="status"></p>
<main id="grid"></main>
<script src="/page.js"></script>
</html>
"""

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px system-ui, sans-serif; margin: 0; }
form { position: sticky; top: 0; display: flex; gap: .5rem; padding: .75rem; background: Canvas; }
input { flex: 1; min-width: 0; }
input, button { font: inherit; padding: .5rem .75rem; }
#status { margin: 0 .75rem .5rem; min-height: 1.3em; opacity: .75; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(160px, 45%), 1fr)); gap: 8px; }
main { padding: 0 .75rem; }
figure { margin: 0; min-width: 0; }
figure button { display: block; width: 100%; padding: 0; border: 0; background: #8882; cursor: pointer; }
figure button:focus-visible { outline: 3px solid Highlight; }
img { display: block; width: 100%; aspect-ratio: 1; object-fit: cover; }
figcaption { font-size: 12px; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; padding: 2px 0 6px; }
"""

SCRIPT = """
"use strict";
const [form, query, status, grid] = ["form", "query", "status", "grid"].map((id) => document.getElementById(id));
let latest = 0;

function figureOf(hit) {
  const figure = document.createElement("figure");
  const similar = document.createElement("button");
  const image = document.createElement("img");
  const name = hit.id + "?version=" + hit.version;
  image.src = "/thumbnail/" + name;
  image.alt = hit.name;
  image.loading = "lazy";
  similar.title = "相似照片 / Similar photographs";
  similar.append(image);
  similar.addEventListener("click", () => visit({ similar: hit.id }));
  const caption = document.createElement("figcaption");
  const link = document.createElement("a");
  link.href = "/photo/" + name;
  link.target = "_blank";
  link.textContent = hit.name;
  caption.title = hit.path;
  caption.append(hit.score === null ? hit.date + " " : hit.score.toFixed(3) + " ", link);
  figure.append(similar, caption);
  return figure;
}

async function show() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  const number = ++latest;
  query.value = parameters.get("q") ?? "";
  status.textContent = "…";
  let answer;
  try {
    const response = await fetch("/search?" + parameters);
    answer = await response.json();
  } catch (error) {
    answer = { error: String(error) };
  }
  if (number !== latest) return;  // a later query was faster
  status.textContent = answer.error ?? [...answer.notes, answer.hits.length + " / " + answer.files].join(" · ");
  grid.replaceChildren(...(answer.hits ?? []).map(figureOf));
  scrollTo(0, 0);
}

function visit(parameters) {
  const hash = "#" + new URLSearchParams(parameters);
  if (hash === location.hash) show();
  else location.hash = hash;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  visit(query.value.trim() ? { q: query.value } : {});
});
addEventListener("hashchange", show);
addEventListener("keydown", (event) => {
  if (event.isComposing) return;  // an input method for Chinese uses these keys itself
  const buttons = [...grid.querySelectorAll("figure button")];
  const position = buttons.indexOf(document.activeElement);
  if (event.key === "/" && document.activeElement !== query) {
    event.preventDefault();
    query.select();
  } else if (event.key === "Escape") {
    query.value = "";
    query.focus();
  } else if (event.key === "ArrowDown" && document.activeElement === query) {
    buttons[0]?.focus();
  } else if (position >= 0) {
    const columns = getComputedStyle(grid).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    (buttons[position + step] ?? (step === -columns ? query : buttons[position])).focus();
  }
});
show();
query.focus({ preventScroll: true });
"""
