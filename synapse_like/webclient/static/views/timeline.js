/**
 * The conversation: its lines, where one stands in it, and paging back.
 *
 * Who is at the end stays there when something comes; who reads further up sees the same lines at the same place,
 * whatever is added above or below.
 */

import { newTransaction } from "../api.js";
import { confirm } from "./dialogs.js";
import { announce, byId, h, icon, notice, reconcile, together } from "./dom.js";
import { echoLine, happening, happeningLine, messageLine, wordsOf } from "./message.js";
import { showPerson } from "./person.js";
import { dayKey, dayName, names } from "./text.js";

/** How many events are asked for in one page of history. */
const PAGE = 50;
/** How far from the top more is loaded, and how near to the end counts as there, in pixels. */
const NEAR_TOP = 600;
const NEAR_END = 48;
/** For how long the messages of one person belong together, in milliseconds. */
const TOGETHER = 5 * 60_000;

/** @param {import("./chat.js").Chat} chat */
export function mountTimeline(chat) {
  new TimelineView(chat);
}

class TimelineView {
  /** @param {import("./chat.js").Chat} chat */
  constructor(chat) {
    this.chat = chat;
    this.scroller = byId("timeline");
    this.list = byId("messages");
    this.isAtEnd = true;
    this.isLoading = false;
    this.fault = null;
    /** The event after which the unread ones began when the room was opened. */
    this.newAfter = null;
    const showSoon = together(() => this.show());
    chat.addEventListener("opened", () => this.open());
    chat.store.addEventListener("room", ({ detail }) => detail === chat.store.openRoom && showSoon());
    chat.store.addEventListener("message", ({ detail }) => this.#said(detail));
    chat.sync.addEventListener("connection", () => chat.sync.connection === "online" && this.#loadIfNear());
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.scroller.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("visibilitychange", () => this.#read());
    addEventListener("focus", () => this.#read());
    new ResizeObserver(() => this.isAtEnd && this.#toEnd()).observe(this.scroller);
    new ResizeObserver(() => this.isAtEnd && this.#toEnd()).observe(this.list);
    byId("to-newest").onclick = () => {
      this.isAtEnd = true;
      this.#toEnd();
      this.#scrolled();
    };
    byId("to-present").onclick = () => this.#toPresent();
  }

  get room() {
    const room = this.chat.room;
    return room?.membership === "join" ? room : null;
  }

  open() {
    const room = this.room;
    this.list.replaceChildren();
    this.isAtEnd = true;
    this.isLoading = false;
    this.fault = null;
    this.openedAt = room?.id;
    this.newAfter = room?.unread ? (this.chat.store.marks.get(room.id)?.id ?? null) : null;
    this.show();
  }

  show() {
    const room = this.room;
    if (!room) {
      this.list.replaceChildren();
      return;
    }
    if (this.openedAt !== room.id) {
      // It was opened before anything was known of it.
      this.open();
      return;
    }
    const anchor = this.isAtEnd ? null : this.#anchor();
    reconcile(
      this.list,
      this.#rows(room),
      (row) => [row.key, row.look],
      (row) => row.make(),
    );
    if (anchor) this.#restore(anchor);
    else this.#toEnd();
    this.#showEdges(room);
    this.#read();
    this.#loadIfNear();
  }

  // Lines.

  /** @param {import("../model/room.js").Room} room */
  #rows(room) {
    const rows = [];
    let before = null;
    let isAfterMark = false;
    for (const event of room.timeline.events) {
      const words = event.state_key === undefined ? null : happening(room, event);
      const isMessage = event.type === "m.room.message";
      if (isMessage || words) {
        const isNewDay = !before || dayKey(before.origin_server_ts) !== dayKey(event.origin_server_ts);
        if (isNewDay) rows.push(this.#day(event));
        if (isAfterMark && event.user_id !== room.userId) {
          rows.push(this.#newMark());
          isAfterMark = false;
          before = null;
        }
        const isFirst = isNewDay || !isMessage || !this.#belongs(before, event);
        rows.push(isMessage ? this.#message(room, event, isFirst) : this.#happening(event, words));
        before = event;
      }
      if (event.event_id === this.newAfter) isAfterMark = true;
    }
    for (const echo of room.timeline.isLive ? room.echoes : []) {
      if (echo.isHidden) continue;
      const asEvent = { type: "m.room.message", user_id: room.userId, origin_server_ts: echo.ts };
      rows.push(this.#echo(room, echo, !this.#belongs(before, asEvent)));
      before = asEvent;
    }
    return rows;
  }

  #belongs(before, event) {
    return (
      before?.type === "m.room.message" &&
      before.user_id === event.user_id &&
      Math.abs(event.origin_server_ts - before.origin_server_ts) < TOGETHER
    );
  }

  #day(event) {
    const name = dayName(event.origin_server_ts);
    return {
      key: `day ${event.event_id}`,
      look: name,
      make: () => h("li", { class: "line day" }, h("span", {}, name)),
    };
  }

  #newMark() {
    return { key: "new", look: "", make: () => h("li", { class: "line new-mark" }, h("span", {}, "New")) };
  }

  #happening(event, words) {
    return { key: event.event_id, look: words, make: () => happeningLine(words, event) };
  }

  #message(room, event, isFirst) {
    const mayRedact = !event.redacted_because && room.power.mayRedact(room.userId, event);
    const look = [
      room.nameOf(event.user_id),
      room.avatarOf(event.user_id),
      isFirst,
      mayRedact,
      Boolean(event.redacted_because),
    ];
    const options = {
      isFirst,
      onRedact: mayRedact ? () => this.#redact(room, event) : null,
      onPerson: (user) => showPerson(this.chat, user),
    };
    return { key: event.event_id, look: look.join("\n"), make: () => messageLine(room, event, options) };
  }

  #echo(room, echo, isFirst) {
    const options = {
      isFirst,
      onRetry: () => this.chat.outbox.retry(room.id, echo),
      onDrop: () => this.chat.outbox.drop(room.id, echo),
    };
    const look = [echo.stage, echo.reason, Math.round(echo.progress * 100), isFirst].join("\n");
    return { key: echo.transaction, look, make: () => echoLine(echo, options) };
  }

  #redact(room, event) {
    const transaction = newTransaction();
    confirm({
      title: "Delete this message?",
      text: `“${wordsOf(event.content).slice(0, 200)}” will be gone for everybody, on every server.`,
      yes: "Delete",
      work: async () => {
        await this.chat.api.redact(room.id, event.event_id, transaction);
        return () => this.#line(event.event_id)?.focus();
      },
    });
  }

  // Where one stands.

  /** The first line that can be seen, and where it is. */
  #anchor() {
    const top = this.scroller.getBoundingClientRect().top;
    for (const line of this.list.children) {
      const { bottom, top: lineTop } = line.getBoundingClientRect();
      // Days and marks come and go.
      if (bottom > top && line.dataset.event) return { key: line.dataset.key, top: lineTop };
    }
    return null;
  }

  #restore({ key, top }) {
    const line = this.#line(key);
    if (line) this.scroller.scrollTop += line.getBoundingClientRect().top - top;
  }

  /** @returns {?HTMLElement} */
  #line(key) {
    return this.list.querySelector(`[data-key="${CSS.escape(key)}"]`);
  }

  #toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    this.isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END;
    if (this.room) this.#showEdges(this.room);
    this.#read();
    this.#loadIfNear();
  }

  #showEdges(room) {
    const isEmpty = room.timeline.length === 0 && room.held !== null;
    byId("history").replaceChildren(...this.#historyWords(room, isEmpty));
    byId("not-live").hidden = room.timeline.isLive;
    const button = byId("to-newest");
    button.hidden = this.isAtEnd;
    const label = room.unread ? `${room.unread} new` : "Newest";
    if (button.dataset.label !== label) {
      button.dataset.label = label;
      button.replaceChildren(icon("down"), label);
    }
  }

  #historyWords(room, isEmpty) {
    if (this.fault) {
      const again = h("button", { type: "button", class: "link", onclick: () => this.#loadOlder() }, "Try again");
      return [`${this.fault} `, again];
    }
    if (this.isLoading || isEmpty) return ["Loading…"];
    return room.timeline.hasOlder ? [] : ["This is where the room begins."];
  }

  /** What can be seen is read, if somebody looks. */
  #read() {
    if (this.room && this.isAtEnd && !document.hidden && document.hasFocus()) this.chat.store.markRead(this.room.id);
  }

  // More.

  #loadIfNear() {
    const { scrollTop } = this.scroller;
    if (this.room?.timeline.hasOlder && scrollTop < NEAR_TOP && !this.isLoading && !this.fault) this.#loadOlder();
  }

  async #loadOlder() {
    const room = this.room;
    this.isLoading = true;
    this.fault = null;
    this.#showEdges(room);
    const { start } = room.timeline;
    try {
      const page = await this.chat.api.messages(room.id, start, PAGE);
      if (room.timeline.start === start) {
        this.isLoading = this.room !== room && this.isLoading;
        this.chat.store.prepend(room.id, page);
      }
    } catch (error) {
      if (this.room === room) this.fault = `Older messages could not be loaded: ${error.message}`;
    } finally {
      if (this.room === room) {
        this.isLoading = false;
        this.#showEdges(room);
      }
    }
  }

  async #toPresent() {
    this.isAtEnd = true;
    await this.chat.sync.load(this.room.id);
  }

  // News.

  /** @param {import("../model/store.js").MatrixEvent} event */
  #said(event) {
    const room = this.chat.store.rooms.get(event.room_id);
    if (room?.id === this.chat.store.openRoom) announce(`${room.nameOf(event.user_id)}: ${wordsOf(event.content)}`);
  }

  // Keys.

  #key(event) {
    const line = document.activeElement?.closest?.(".message");
    if (!line || event.altKey || event.ctrlKey) return;
    const lines = [...this.list.querySelectorAll(".message")];
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) {
      const next = lines[lines.indexOf(line) + step];
      if (next) next.focus();
      else if (step > 0) byId("composer-text").focus();
      event.preventDefault();
    } else if (event.key === "Delete" || event.key === "Backspace") {
      const button = line.querySelector(".act");
      if (button) button.click();
      else notice("You may not delete this message.");
      event.preventDefault();
    } else if (event.key === "Enter" && document.activeElement === line) {
      line.querySelector(".picture, .file, a, .face")?.click();
    }
  }
}

/** Who types in the open room, in words. @param {import("./chat.js").Chat} chat */
export function typingWords(chat) {
  const room = chat.room;
  const typing = (room?.typing ?? []).map((user) => room.nameOf(user));
  if (!typing.length) return "";
  return `${names(typing)} ${typing.length === 1 ? "is" : "are"} typing…`;
}
