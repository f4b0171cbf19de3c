"use strict";
const TEXTS = {
  en: {
    query: "Search photographs", example: "sunset at the sea -people", search: "Search", filters: "Filters",
    after: "From", before: "To", path: "Path", sort: "Sort by", fit: "best match", date: "date",
    remove: "Remove the example image", similar: "Similar to ", open: "Open folder: ", gone: "gone or changed",
    cleared: "Cleared: all photographs, newest first", newest: "newest first", esc: "Esc clears",
    byDate: "the best matches by date, at most 200", unlikely: "Less likely",
    nothing: "No photograph seems to fit. The most similar ones", without: (words) => "without " + words.join(", "),
    copies: (number) => "+" + number + (number === 1 ? " copy" : " copies"),
    count: (shown, total) => shown + " shown of " + total, unreachable: "The server does not answer. Run: dcclip serve",
  },
  zh: {
    query: "搜索照片", example: "海边的日落 -人", search: "搜索", filters: "筛选",
    after: "从", before: "到", path: "路径", sort: "排序", fit: "最相似", date: "日期",
    remove: "移除示例图片", similar: "查找相似照片：", open: "打开所在文件夹：", gone: "找不到或已修改",
    cleared: "已清除，显示全部照片，最新的在前", newest: "最新的在前", esc: "按 Esc 清除",
    byDate: "最相似的照片（最多 200 张），按日期排序", unlikely: "以下照片不太可能符合",
    nothing: "似乎没有符合的照片。以下是最相似的照片", without: (words) => "不含：" + words.join("、"),
    copies: (number) => "另有 " + number + " 个副本",
    count: (shown, total) => "已显示 " + shown + " 张，共 " + total + " 张", unreachable: "服务没有响应，请运行：dcclip serve",
  },
};
const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
const text = TEXTS[language];
const FIELDS = ["q", "after", "before", "path", "sort"];
const element = Object.fromEntries([...document.querySelectorAll("[id]")].map((each) => [each.id, each]));
let latest = 0, shown = new Set(), skip = 0, hasMore = false, isLoading = false, isCleared = false;

function make(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function figureOf(hit, canOpen) {
  const address = hit.id + "?version=" + hit.version;
  const image = hit.is_current
    ? make("img", { src: "/thumbnail/" + address, alt: "", loading: "lazy" })
    : make("span", { className: "gone" }, text.gone);
  const similar = make("button", { type: "button", className: "similar", title: text.similar + hit.name }, image);
  similar.addEventListener("click", () => visit({ ...parameters(), q: "", sort: "", like: hit.id }));
  const name = hit.is_current
    ? make("a", { href: "/photo/" + address, target: "_blank" }, hit.name)
    : make("span", {}, hit.name);
  const facts = [hit.date, hit.score?.toFixed(3), hit.copies ? text.copies(hit.copies) : null];
  const caption = make("figcaption", { title: hit.path }, name, make("span", {}, facts.filter(Boolean).join(" · ")));
  if (canOpen && hit.is_current) {
    const open = make("button", { type: "button", className: "open", title: text.open + hit.path }, "↗");
    open.addEventListener("click", () => ask("/open/" + hit.id, { method: "POST", headers: { "X-DCCLIP": "1" } }));
    caption.prepend(open);
  }
  return make("figure", {}, similar, caption);
}

async function ask(address, options) {
  let answer;
  try {
    answer = await (await fetch(address, options)).json();
  } catch {
    answer = { error: text.unreachable };
  }
  if (answer.error) element.status.textContent = answer.error;
  return answer;
}

const parameters = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

async function load() {
  const number = latest;
  isLoading = true;
  const answer = await ask("/search?" + new URLSearchParams({ ...parameters(), skip }));
  if (number !== latest) return; // a later query was faster
  isLoading = false;
  hasMore = answer.more;
  if (skip === 0) element.grid.replaceChildren();
  if (answer.error) return;
  skip += answer.hits.length;
  const hits = answer.hits.filter((hit) => !shown.has(hit.id)); // the index may have changed since the last part
  hits.forEach((hit) => shown.add(hit.id));
  const last = hits.map((hit) => hit.fits).lastIndexOf(true);
  if (last >= 0) element.grid.querySelector("h2")?.remove(); // the last that fits is in this part
  hits.forEach((hit, number) => {
    if (number > last && !element.grid.querySelector("h2")) {
      element.grid.append(make("h2", {}, element.grid.childElementCount ? text.unlikely : text.nothing));
    }
    element.grid.append(figureOf(hit, answer.opens));
  });
  const { q, like, sort } = parameters();
  const order = q || like ? (sort ? text.byDate : null) : isCleared && location.hash.length < 2 ? text.cleared : text.newest;
  const parts = [answer.without.length ? text.without(answer.without) : null, ...answer.notes];
  parts.push(text.count(shown.size.toLocaleString(), answer.total.toLocaleString()), order);
  parts.push(location.hash.length > 1 && matchMedia("(pointer: fine)").matches ? text.esc : null);
  element.status.textContent = parts.filter(Boolean).join(" · ");
  fill();
}

function fill() {
  if (hasMore && !isLoading && element.end.getBoundingClientRect().top < innerHeight + 1000) load();
}

function show() {
  const now = parameters();
  for (const name of FIELDS) element[name].value = now[name] ?? "";
  if (["after", "before", "path", "sort"].some((name) => now[name])) element.filters.open = true;
  element.chip.hidden = !now.like;
  if (now.like) element.chip.firstChild.src = "/thumbnail/" + now.like;
  latest += 1;
  [shown, skip, hasMore] = [new Set(), 0, false];
  scrollTo(0, 0);
  load();
}

function visit(changed) {
  isCleared = false;
  const hash = "#" + new URLSearchParams(Object.entries(changed).filter(([, value]) => value !== ""));
  if (hash === location.hash || (hash === "#" && !location.hash)) show();
  else location.hash = hash;
}

function submit() {
  visit({ ...parameters(), ...Object.fromEntries(FIELDS.map((name) => [name, element[name].value.trim()])) });
}

document.documentElement.lang = language;
for (const each of document.querySelectorAll("[data-text]")) each.textContent = text[each.dataset.text];
for (const each of document.querySelectorAll("[data-label]")) each.setAttribute("aria-label", text[each.dataset.label]);
element.q.placeholder = text.example;
element.form.addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
element.sort.addEventListener("change", submit);
element.chip.lastChild.addEventListener("click", () => visit({ ...parameters(), like: "" }));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.isComposing) return;
  event.preventDefault();
  visit({});
  isCleared = true;
  element.q.focus({ preventScroll: true });
});
addEventListener("hashchange", show);
addEventListener("scroll", fill, { passive: true });
addEventListener("resize", fill);
show();
element.q.focus({ preventScroll: true });
