/** Who is in the room, and what one may do about it. */

import { localpart } from "../model/room.js";
import { Power } from "../model/power.js";
import { avatar, PRESENCE, presenceDot } from "./avatar.js";
import { doIn, openDialog, showFault } from "./dialogs.js";
import { byId, h, reconcile, together } from "./dom.js";
import { ago } from "./text.js";

const THERE = ["online", "free_for_chat", "unavailable"];

/** @param {import("./chat.js").Chat} chat */
export function mountPeople(chat) {
  const lists = byId("people-lists");
  const show = () => {
    const room = chat.room;
    if (!room || room.membership !== "join") {
      lists.replaceChildren();
      return;
    }
    const groups = [
      ["join", "In the room"],
      ["invite", "Invited"],
      ["ban", "Banned"],
    ].map(([membership, title]) => ({ membership, title, members: sorted(room, chat, membership) }));
    byId("people-title").textContent = `People · ${groups[0].members.length}`;
    reconcile(
      lists,
      groups.filter((group) => group.members.length),
      (group) => [`${room.id} ${group.membership}`, ""],
      (group) => h("section", { "aria-label": group.title }, h("h3", { hidden: group.membership === "join" }, group.title), h("ul", {})),
    );
    for (const group of groups) {
      const list = lists.querySelector(`[data-key="${CSS.escape(`${room.id} ${group.membership}`)}"] ul`);
      if (list) reconcile(list, group.members, (member) => [member.user, lookOf(member, room, chat)], (member) => entry(member, room, chat));
    }
    if (byId("person-dialog").open) chat.showPersonAgain?.();
  };
  const showSoon = together(show);
  chat.store.addEventListener("room", ({ detail }) => detail === chat.store.openRoom && showSoon());
  chat.store.addEventListener("people", showSoon);
  chat.addEventListener("opened", show);
  mountPerson(chat);
}

/** Those with power first, then those who are there, then by name. */
function sorted(room, { store }, membership) {
  const isAway = (member) => (THERE.includes(store.person(member.user)?.presence) ? 0 : 1);
  return room
    .those(membership)
    .sort(
      (a, b) =>
        room.power.of(b.user) - room.power.of(a.user) || isAway(a) - isAway(b) || a.name.localeCompare(b.name),
    );
}

function lookOf(member, room, { store }) {
  const person = store.person(member.user);
  return JSON.stringify([room.nameOf(member.user), member.avatar, room.power.of(member.user), person?.presence, person?.status]);
}

function entry(member, room, chat) {
  const person = chat.store.person(member.user);
  const title = Power.title(room.power.of(member.user));
  return h(
    "li",
    {},
    h(
      "button",
      { type: "button", class: "person-entry", "aria-haspopup": "dialog", title: member.user, dataset: { user: member.user }, onclick: () => showPerson(chat, member.user) },
      h("span", { class: "with-dot" }, avatar(member.user, member.name, member.avatar), presenceDot(person)),
      h(
        "span",
        { class: "person-words" },
        h("span", { class: "person-entry-name" }, room.nameOf(member.user), member.user === chat.userId && h("span", { class: "quiet" }, " (you)")),
        (title || person?.status) &&
          h("span", { class: "quiet" }, title && h("span", { class: "tag" }, title), title && person?.status ? " " : "", person?.status),
      ),
    ),
  );
}

/**
 * Show who somebody is.
 * @param {import("./chat.js").Chat} chat
 * @param {string} user
 */
export function showPerson(chat, user) {
  chat.shownPerson = user;
  byId("person-reason").value = "";
  openDialog("person-dialog");
  chat.showPersonAgain(true);
}

/** The dialog about one person. @param {import("./chat.js").Chat} chat */
function mountPerson(chat) {
  const dialog = byId("person-dialog");
  const { api } = chat;

  chat.showPersonAgain = (isFirst = false) => {
    const { room, shownPerson: user } = chat;
    if (!room || !user) return;
    const member = room.members.get(user);
    const name = member?.name ?? localpart(user);
    byId("person-name").textContent = name;
    byId("person-id").textContent = user;
    byId("person-avatar").replaceChildren(avatar(user, name, member?.avatar, "large"));
    showPresence(chat.store.person(user));
    const { power } = room;
    const level = power.of(user);
    const mayChange = power.mayChangeLevel(chat.userId, user);
    byId("person-power").hidden = !mayChange;
    const field = byId("person-level");
    if (document.activeElement !== field || isFirst) field.value = String(level);
    field.max = String(power.of(chat.userId));
    byId("person-level-shown").hidden = mayChange;
    byId("person-level-shown").textContent = `${Power.title(level) || "No special power"} in this room`;
    const isIn = ["join", "invite"].includes(member?.membership);
    const mayKick = isIn && power.mayRemove(chat.userId, "kick", user);
    const mayBan = member?.membership !== "ban" && power.mayRemove(chat.userId, "ban", user);
    byId("person-kick").hidden = !mayKick;
    byId("person-ban").hidden = !mayBan;
    byId("person-unban").hidden = member?.membership !== "ban" || !power.mayUnban(chat.userId);
    byId("person-reason-field").hidden = !mayKick && !mayBan;
  };

  const act = (action) =>
    doIn(dialog, () => api.changeMembership(chat.room.id, action, chat.shownPerson, byId("person-reason").value.trim()));
  byId("person-kick").onclick = () => act("kick");
  byId("person-ban").onclick = () => act("ban");
  byId("person-unban").onclick = () => act("unban");
  const setLevel = () => {
    const level = Number(byId("person-level").value);
    if (!byId("person-level").value || !Number.isSafeInteger(level)) {
      showFault(dialog, "The power must be a whole number.");
      return;
    }
    const content = chat.room.power.withLevel(chat.shownPerson, level);
    doIn(dialog, () => api.setState(chat.room.id, "m.room.power_levels", content));
  };
  byId("person-level-save").onclick = setLevel;
  byId("person-level").addEventListener("keydown", (event) => event.key === "Enter" && setLevel());
}

function showPresence(person) {
  const place = byId("person-presence");
  place.replaceChildren();
  if (!person) return;
  const word = PRESENCE[person.presence] ?? "";
  const active = person.presence !== "online" && person.activeAt ? `, last active ${ago(person.activeAt)}` : "";
  place.append(h("span", { class: `dot ${person.presence}`, "aria-hidden": "true" }), ` ${word}${active}`);
  if (person.status) place.append(h("br"), person.status);
}
