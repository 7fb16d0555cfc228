/** Words: times, sizes, links in messages. */

const TIME = new Intl.DateTimeFormat(undefined, { hour: "numeric", minute: "2-digit" });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" });
const DAY_AND_YEAR = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "long", year: "numeric" });
const DATE = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "medium" });

/** The last moment that a `Date` can hold. */
const END_OF_TIME = 8.64e15;

/** A time that can be shown, whatever another server says that the time was. */
function sane(ts) {
  return Math.min(Math.max(Number(ts) || 0, 0), END_OF_TIME);
}

export const timeOf = (ts) => TIME.format(sane(ts));
export const wholeTimeOf = (ts) => WHOLE.format(sane(ts));
export const isoTimeOf = (ts) => new Date(sane(ts)).toISOString();

/** @returns {string} which day it is, to tell days apart */
export function dayKey(ts) {
  return new Date(sane(ts)).toDateString();
}

/** What a day is called. */
export function dayName(ts, now = Date.now()) {
  if (dayKey(ts) === dayKey(now)) return "Today";
  if (dayKey(ts) === dayKey(now - 24 * 3600_000)) return "Yesterday";
  const isThisYear = new Date(sane(ts)).getFullYear() === new Date(now).getFullYear();
  return (isThisYear ? DAY : DAY_AND_YEAR).format(sane(ts));
}

/** A time in few characters: of today the hour, else the day. */
export function shortTime(ts, now = Date.now()) {
  return dayKey(ts) === dayKey(now) ? timeOf(ts) : DATE.format(sane(ts));
}

export function sizeName(bytes) {
  if (!Number.isFinite(bytes)) return "";
  if (bytes < 1024) return `${bytes} bytes`;
  const unit = bytes < 1024 ** 2 ? 1 : 2;
  return `${(bytes / 1024 ** unit).toFixed(1)} ${["", "kB", "MB"][unit]}`;
}

/** How long ago, in words. */
export function ago(ts, now = Date.now()) {
  const minutes = Math.floor((now - ts) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ago` : `${Math.floor(hours / 24)} d ago`;
}

/** "Alice", "Alice and Bob", "Alice, Bob and 2 more" */
export function names(list) {
  if (list.length > 3) return `${list.slice(0, 2).join(", ")} and ${list.length - 2} more`;
  return list.length > 1 ? `${list.slice(0, -1).join(", ")} and ${list.at(-1)}` : (list[0] ?? "");
}

const LINK = /\bhttps?:\/\/[^\s<>"'`\u0000-\u001f\u200e\u200f\u202a-\u202e\u2066-\u2069]+/gi;

/**
 * A text with its web addresses as links. No other kind of address becomes one, and the page that it leads to is not
 * told where the reader came from.
 * @param {string} text
 * @returns {(string|HTMLAnchorElement)[]}
 */
export function withLinks(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(LINK)) {
    const address = trimmed(match[0]);
    if (!URL.canParse(address)) continue;
    const link = document.createElement("a");
    link.href = address;
    link.textContent = address;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    parts.push(text.slice(end, match.index), link);
    end = match.index + address.length;
  }
  parts.push(text.slice(end));
  return parts.filter((part) => part !== "");
}

/** An address without the punctuation that ends the sentence around it. */
function trimmed(address) {
  let found = address.replace(/[.,;:!?]+$/, "");
  while (found.endsWith(")") && found.split(")").length > found.split("(").length) found = found.slice(0, -1);
  return found;
}
