/** What stands above a conversation; and an invitation, in its place. */

import { localpart } from "../model/room.js";
import { avatar } from "./avatar.js";
import { byId, icon, notice, together } from "./dom.js";
import { roomAvatar } from "./room_list.js";

/** @param {import("./chat.js").Chat} chat */
export function mountRoomHeader(chat) {
  byId("back").append(icon("back"));
  byId("invite-button").append(icon("invite"));
  byId("people-button").append(icon("people"));
  byId("people-close").append(icon("close"));
  byId("room-button").append(icon("info"));
  byId("invite-button").dataset.opens = "invite-dialog";
  byId("back").onclick = () => chat.open(null);
  byId("people-button").onclick = () => {
    chat.pane = chat.pane === "people" ? "room" : "people";
    if (chat.pane === "people") byId("people-close").focus();
  };
  byId("people-close").onclick = () => {
    chat.pane = "room";
    byId("people-button").focus();
  };
  byId("invitation-accept").onclick = () =>
    answer(async (room) => {
      await chat.api.join(room.id);
      room.membership = "join";
      await chat.sync.load(room.id);
    });
  byId("invitation-reject").onclick = () =>
    answer(async (room) => {
      await chat.api.leave(room.id);
      chat.store.forget(room.id);
      chat.open(null);
    });

  async function answer(work) {
    const buttons = [byId("invitation-accept"), byId("invitation-reject")];
    buttons.forEach((button) => (button.disabled = true));
    try {
      await work(chat.room);
    } catch (error) {
      notice(error.message);
    } finally {
      buttons.forEach((button) => (button.disabled = false));
    }
  }

  const show = () => {
    const room = chat.room;
    if (!room && chat.store.openRoom && chat.sync.connection === "online") {
      // The user is no longer in it, or never was.
      chat.open(null);
      return;
    }
    byId("no-room").hidden = Boolean(chat.store.openRoom);
    byId("invitation").hidden = room?.membership !== "invite";
    byId("conversation").hidden = room?.membership !== "join";
    if (room?.membership === "invite") showInvitation(room);
    if (room?.membership === "join") showRoom(room, chat);
  };
  const showSoon = together(show);
  chat.store.addEventListener("room", ({ detail }) => detail === chat.store.openRoom && showSoon());
  chat.store.addEventListener("rooms", showSoon);
  chat.sync.addEventListener("connection", showSoon);
  chat.addEventListener("opened", show);
}

function showInvitation(room) {
  const inviter = room.inviter ?? "";
  byId("invitation-avatar").replaceChildren(avatar(inviter, localpart(inviter), null, "large"));
  byId("invitation-title").textContent = `${localpart(inviter)} invites you`;
  byId("invitation-text").textContent = `${inviter} would like you to join a room.`;
}

function showRoom(room, chat) {
  byId("room-avatar").replaceChildren(roomAvatar(room));
  byId("room-name").textContent = room.name;
  byId("room-topic").textContent = room.topic;
  byId("room-topic").title = room.topic;
  const count = room.those("join").length;
  byId("people-button").title = count === 1 ? "1 person" : `${count} people`;
  byId("invite-button").hidden = !room.power.mayInvite(chat.userId);
}
