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
show();
query.focus({ preventScroll: true });
