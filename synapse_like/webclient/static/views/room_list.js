/** The list of rooms, with what is unread in each; and the invitations, on top. */

import { localpart } from "../model/room.js";
import { avatar } from "./avatar.js";
import { byId, h, icon, reconcile, together } from "./dom.js";
import { preview } from "./message.js";
import { shortTime } from "./text.js";

/** @param {import("./chat.js").Chat} chat */
export function mountRoomList(chat) {
  const { store } = chat;
  const list = byId("room-list");
  const filter = byId("room-filter");
  byId("find-button").append(icon("find"));
  byId("create-button").append(icon("create"));
  byId("help-button").append(icon("help"));
  byId("find-button").dataset.opens = "find-dialog";
  byId("create-button").dataset.opens = "create-dialog";
  byId("help-button").dataset.opens = "help-dialog";

  const show = () => {
    const rooms = shownRooms(chat);
    reconcile(
      list,
      rooms,
      (room) => [room.id, lookOf(room, chat)],
      (room) => entry(room, chat),
    );
    byId("no-rooms").hidden = store.rooms.size > 0 || chat.sync.connection === "starting";
  };
  const showSoon = together(show);
  store.addEventListener("rooms", showSoon);
  store.addEventListener("room", showSoon);
  store.addEventListener("people", showSoon);
  chat.sync.addEventListener("connection", showSoon);
  chat.addEventListener("opened", show);
  filter.addEventListener("input", show);
  filter.addEventListener("keydown", (event) => {
    if (event.key === "Enter") list.querySelector("button")?.click();
    if (event.key === "ArrowDown") list.querySelector("button")?.focus();
    if (event.key === "Escape" && filter.value) {
      filter.value = "";
      show();
    }
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || event.altKey) return;
    const buttons = [...list.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    (next ?? (step < 0 ? filter : document.activeElement)).focus();
    event.preventDefault();
  });
}

/** The rooms that are listed, in their order. @param {import("./chat.js").Chat} chat */
export function shownRooms(chat) {
  const wanted = byId("room-filter").value.trim().toLowerCase();
  return chat.store.listed.filter((room) => room.name.toLowerCase().includes(wanted));
}

function lookOf(room, { store }) {
  const picture = otherOf(room);
  return JSON.stringify([
    room.name,
    room.membership,
    room.unread,
    room.id === store.openRoom,
    room.last?.event_id,
    room.last && room.nameOf(room.last.user_id),
    room.typing.length,
    shortTime(room.lastActive),
    picture?.avatar,
    picture && store.people.get(picture.user)?.presence,
  ]);
}

/** In a room of two, the other one: their picture is the room's. @param {import("../model/room.js").Room} room */
export function otherOf(room) {
  if (room.content("m.room.name")?.name) return null;
  const others = room.those("join", "invite").filter((member) => member.user !== room.userId);
  return others.length === 1 ? others[0] : null;
}

/** @param {import("../model/room.js").Room} room */
export function roomAvatar(room, size) {
  const other = otherOf(room);
  if (other) return avatar(other.user, other.name, other.avatar, size);
  return avatar(room.id, room.membership === "invite" ? localpart(room.inviter ?? "?") : room.name, null, size);
}

function entry(room, chat) {
  const isOpen = room.id === chat.store.openRoom;
  const isInvite = room.membership === "invite";
  const name = isInvite ? localpart(room.inviter ?? "") : room.name;
  const second = isInvite ? "invites you to a room" : room.typing.length ? "typing…" : preview(room, room.last);
  const count = isInvite ? "!" : room.unread > 99 ? "99+" : String(room.unread);
  const badge = (isInvite || room.unread > 0) && [
    h("span", { class: "badge", "aria-hidden": "true" }, count),
    h("span", { class: "for-ears" }, isInvite ? ", invitation" : `, ${room.unread} unread`),
  ];
  return h(
    "li",
    {},
    h(
      "button",
      {
        type: "button",
        class: `room-entry ${isInvite ? "invitation" : ""} ${badge ? "unread" : ""}`,
        "aria-current": isOpen ? "true" : null,
        dataset: { room: room.id },
        onclick: () => chat.open(room.id),
      },
      roomAvatar(room),
      h(
        "span",
        { class: "room-words" },
        h("span", { class: "room-entry-name" }, name),
        h("span", { class: "room-entry-last" }, second),
      ),
      h(
        "span",
        { class: "room-marks" },
        h("time", {}, room.lastActive ? shortTime(room.lastActive) : ""),
        ...(badge || []),
      ),
    ),
  );
}
