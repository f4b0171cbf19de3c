// What the page says, in the language of the browser.

const english = {
  query: "Search photographs", example: "sunset at the sea, last summer", search: "Search",
  choose: "Search with an image: choose, paste or drop one", drop: "Drop an image to search with it",
  sort: "Sort by", byFit: "Best match", byDate: "Date", details: "Details", filters: "Filters",
  after: "From", before: "To", path: "Path", apply: "Apply", years: "Years",
  previous: "Previous photograph", next: "Next photograph", close: "Close", copy: "Copy path", copied: "Copied",
  similar: "Similar", open: "Show in folder", gone: "gone or changed", less: "Less likely",
  video: "Video", broken: "The browser cannot play this video. Show it in its folder and open it there.",
  remove: (what) => `Remove: ${what}`, image: "example image", dates: (first, last) => (first === last ? first : `${first} – ${last}`),
  copies: (number) => (number === 1 ? "+1 copy" : `+${number} copies`),
  all: (total) => (total === "1" ? "1 photograph" : `${total} photographs, newest first`),
  fit: (fits, others) => (others === "0" ? `${fits} fit` : `${fits} fit, ${others} others below`),
  many: (limit, total) => `More than ${limit} of ${total} fit, most similar first`,
  may: "Perhaps these; nothing is sure. The best matches come first.",
  none: "Nothing like it was found. The closest ones are below.",
  similarity: (total) => `${total} photographs, most similar first`,
  byDateOf: (number) => `The ${number} best matches, newest first`,
  combined: (text) => `Image and “${text}” combined`, without: (words) => `without ${words.join(", ")}`,
  loading: "Searching…", unreachable: "The server does not answer. Start it again: dcclip serve",
  nothing: "Nothing is indexed yet", nothingHelp: "Run in a terminal: dcclip FOLDER_OF_PHOTOS",
  soon: "The first photographs appear in a moment", soonHelp: "They can be found as soon as they are indexed.",
  filtered: "No photograph passes the filters", unfilter: "Remove the filters",
  looking: "Looking for photographs…",
  progress: (done, total, files, left) => `Indexing ${done} of ${total}${left} · ${files} can already be found`,
  left: (minutes) => (minutes < 1 ? " · less than a minute left" : ` · about ${minutes} min left`),
};

const chinese = {
  query: "搜索照片", example: "去年夏天海边的日落", search: "搜索",
  choose: "以图搜图：选择、粘贴或拖入图片", drop: "松开鼠标，用这张图片搜索",
  sort: "排序", byFit: "最相似", byDate: "日期", details: "详细信息", filters: "筛选",
  after: "从", before: "到", path: "路径", apply: "应用", years: "年份",
  previous: "上一张", next: "下一张", close: "关闭", copy: "复制路径", copied: "已复制",
  similar: "相似照片", open: "在文件夹中显示", gone: "找不到或已修改", less: "不太可能符合",
  video: "视频", broken: "浏览器无法播放这个视频，请在文件夹中打开。",
  remove: (what) => `移除：${what}`, image: "示例图片", dates: (first, last) => (first === last ? first : `${first} 至 ${last}`),
  copies: (number) => `另有 ${number} 个副本`,
  all: (total) => `${total} 张照片，最新的在前`,
  fit: (fits, others) => (others === "0" ? `${fits} 张符合` : `${fits} 张符合，其余 ${others} 张在下面`),
  many: (limit, total) => `${total} 张中有 ${limit} 张以上符合，最相似的在前`,
  may: "可能是这些照片，不能确定；最相似的在前。",
  none: "没有找到类似的照片，下面是最接近的。",
  similarity: (total) => `${total} 张照片，最相似的在前`,
  byDateOf: (number) => `最符合的 ${number} 张，最新的在前`,
  combined: (text) => `图片与“${text}”合并搜索`, without: (words) => `不含${words.join("、")}`,
  loading: "正在搜索…", unreachable: "服务没有响应，请重新运行：dcclip serve",
  nothing: "还没有索引任何照片", nothingHelp: "请在终端运行：dcclip 照片文件夹",
  soon: "第一批照片马上就会出现", soonHelp: "照片一经索引就能搜到。",
  filtered: "没有照片符合筛选条件", unfilter: "清除筛选条件",
  looking: "正在查找照片…",
  progress: (done, total, files, left) => `正在索引：${done} / ${total}${left}，已有 ${files} 张可以搜到`,
  left: (minutes) => (minutes < 1 ? "，不到 1 分钟" : `，约剩 ${minutes} 分钟`),
};

export const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
export const text = language === "zh" ? chinese : english;
export const count = (number) => number.toLocaleString(language);

/** A month such as "2023-05" in words. */
export function monthName(month) {
  const [year, number] = month.split("-").map(Number);
  return new Date(year, number - 1).toLocaleDateString(language, { year: "numeric", month: "long" });
}

/** A date and time such as "2023-05-12 09:30:12" in words. */
export function dateName(date) {
  return new Date(date.replace(" ", "T")).toLocaleString(language, { dateStyle: "long", timeStyle: "short" });
}
