/** The chat as a whole: its parts, which room is open, and what is shown of the connection. */

import { Api } from "../api.js";
import { Outbox } from "../model/outbox.js";
import { ReadMarks } from "../model/read_marks.js";
import { Store } from "../model/store.js";
import { Sync } from "../model/sync.js";
import { mountComposer } from "./composer.js";
import { closeDialogs, prepareDialogs } from "./dialogs.js";
import { byId, notice, together } from "./dom.js";
import { mountKeys } from "./keys.js";
import { mountPeople } from "./people.js";
import { mountPerson } from "./person.js";
import { mountProfile } from "./profile.js";
import { mountRoomDialogs } from "./room_dialogs.js";
import { mountRoomHeader } from "./room_header.js";
import { mountRoomList } from "./room_list.js";
import { mountTimeline } from "./timeline.js";

/** On narrow screens one of these is shown at a time; on wide ones, people stay beside the rooms. @typedef {"rooms"|"room"|"people"} Pane */

/** What all parts of the page share. */
export class Chat extends EventTarget {
  /** @param {import("../model/session.js").Session} session */
  constructor(session) {
    super();
    this.userId = session.user_id;
    this.server = session.user_id.slice(session.user_id.indexOf(":") + 1);
    this.api = new Api(session.access_token);
    this.store = new Store(this.userId, new ReadMarks(localStorage, this.userId));
    this.sync = new Sync(this.api, this.store);
    this.outbox = new Outbox(this.api, this.store);
  }

  /** The room that is looked at. @returns {?import("../model/room.js").Room} */
  get room() {
    return this.store.rooms.get(this.store.openRoom) ?? null;
  }

  /** Look at a room; its address is kept, so that going back and loading again lead to it. @param {?string} id */
  open(id) {
    const address = id ? `#${encodeURIComponent(id)}` : location.pathname;
    if (id !== roomInAddress()) history.pushState(null, "", address);
    this.show(id);
  }

  /** @param {?string} id */
  show(id) {
    const before = this.store.openRoom;
    const left = this.room;
    this.store.open(id);
    if (left && left.id !== id && !left.timeline.isLive) this.sync.load(left.id);
    const staysOpen = this.pane === "people" && matchMedia("(min-width: 64.01rem)").matches;
    this.pane = !id ? "rooms" : staysOpen ? "people" : "room";
    if (before !== id) this.dispatchEvent(new Event("opened"));
  }

  /** @returns {Pane} */
  get pane() {
    return byId("chat-view").dataset.pane;
  }

  /** @param {Pane} pane */
  set pane(pane) {
    byId("chat-view").dataset.pane = pane;
    byId("people").hidden = pane !== "people";
    byId("people-button").ariaExpanded = String(pane === "people");
  }
}

/**
 * @param {import("../model/session.js").Session} session
 * @param {{onEnd: (message?: string) => void}} options called when the user is no longer logged in
 */
export function showChat(session, { onEnd }) {
  const chat = new Chat(session);
  const { store, sync, outbox } = chat;
  byId("chat-view").hidden = false;
  prepareDialogs();
  mountRoomList(chat);
  mountRoomHeader(chat);
  mountTimeline(chat);
  mountComposer(chat);
  mountPeople(chat);
  mountPerson(chat);
  mountRoomDialogs(chat);
  // The stream ends with the token, which is then no surprise.
  let isLeaving = false;
  mountProfile(chat, async () => {
    isLeaving = true;
    try {
      await chat.api.logOut();
    } catch (error) {
      isLeaving = error.isLoggedOut === true;
      if (!isLeaving) throw error;
    }
    sync.stop();
    onEnd("You have logged out.");
  });
  mountKeys(chat);

  const showTitle = together(() => {
    const unread = store.totalUnread;
    document.title = `${unread ? `(${unread}) ` : ""}${chat.room ? `${chat.room.name} – ` : ""}Chat`;
  });
  store.addEventListener("rooms", showTitle);
  chat.addEventListener("opened", showTitle);

  store.addEventListener("removed", ({ detail: { room, event } }) => {
    const what = event.content.membership === "ban" ? "banned you from" : "removed you from";
    const reason = typeof event.content.reason === "string" ? `: ${event.content.reason}` : ".";
    notice(`${room.nameOf(event.user_id)} has ${what} ${room.name}${reason}`);
  });

  sync.addEventListener("connection", () => showConnection(sync.connection));
  sync.addEventListener("recovered", () => outbox.retryUnheard());
  sync.addEventListener("ended", () => isLeaving || onEnd());
  addEventListener("online", () => {
    sync.breakOff();
    sync.hurry();
  });
  addEventListener("offline", () => sync.breakOff());
  document.addEventListener("visibilitychange", () => document.hidden || sync.hurry());

  addEventListener("popstate", () => {
    closeDialogs();
    chat.show(roomInAddress());
  });
  chat.show(roomInAddress());
  showConnection("starting");
  sync.start();
}

/** @param {import("../model/sync.js").Connection} connection */
function showConnection(connection) {
  byId("connection").dataset.state = connection;
  byId("connection").textContent =
    { starting: "Loading your rooms…", away: "The server cannot be reached. Trying again…" }[connection] ?? "";
}

/** @returns {?string} */
function roomInAddress() {
  try {
    const id = decodeURIComponent(location.hash.slice(1));
    return id.startsWith("!") ? id : null;
  } catch {
    return null;
  }
}
