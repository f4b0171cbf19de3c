// The language of the browser, and how it writes numbers and dates.

const preferred = navigator.language.toLowerCase();
const isTraditional = /^zh-(hant|tw|hk|mo)/.test(preferred);
const isChinese = preferred.startsWith("zh");

/** Language tag of the page. */
export const language = isTraditional ? "zh-Hant" : isChinese ? "zh-Hans" : "en";
export const { text } = await import(isTraditional ? "./zh-hant.js" : isChinese ? "./zh.js" : "./en.js");

const locale = /^(zh|en)/.test(preferred) ? preferred : "en";
const MONTH = new Intl.DateTimeFormat(locale, { year: "numeric", month: "long" });
const SHORT_MONTH = new Intl.DateTimeFormat(locale, { month: "short" });
const TIME = new Intl.DateTimeFormat(locale, { dateStyle: "long", timeStyle: "short" });
const UNITS = ["B", "kB", "MB", "GB", "TB"];

export const count = (number) => number.toLocaleString(locale);

/** A size in bytes, such as 3.4 MB. */
export function bytes(size) {
  const power = Math.min(Math.floor(Math.log10(Math.max(size, 1)) / 3), UNITS.length - 1);
  return `${(size / 1000 ** power).toLocaleString(locale, { maximumFractionDigits: power > 1 ? 1 : 0 })} ${UNITS[power]}`;
}

const start = (month) => new Date(...month.split("-").map((part, place) => part - place));

/** Months such as "2023-05" in words; the first and the last of several. */
export const monthName = (first, last = first) => [...new Set([first, last])].map((month) => MONTH.format(start(month))).join(" – ");

/** The month of "2023-05" without its year. */
export const shortMonth = (month) => SHORT_MONTH.format(start(month));

/** A date and time such as "2023-05-12 09:30:12" in words. */
export const dateName = (date) => TIME.format(new Date(date.replace(" ", "T")));
