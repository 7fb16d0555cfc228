/** Who is in the room. */

import { Power } from "../model/power.js";
import { avatar, presenceDot } from "./avatar.js";
import { byId, h, reconcile, together } from "./dom.js";
import { showPerson } from "./person.js";

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
      (group) =>
        h(
          "section",
          { "aria-label": group.title },
          h("h3", { hidden: group.membership === "join" }, group.title),
          h("ul", {}),
        ),
    );
    for (const group of groups) {
      const list = lists.querySelector(`[data-key="${CSS.escape(`${room.id} ${group.membership}`)}"] ul`);
      if (list)
        reconcile(
          list,
          group.members,
          (member) => [member.user, lookOf(member, room, chat)],
          (member) => entry(member, room, chat),
        );
    }
  };
  const showSoon = together(show);
  chat.store.addEventListener("room", ({ detail }) => detail === chat.store.openRoom && showSoon());
  chat.store.addEventListener("people", showSoon);
  chat.addEventListener("opened", show);
}

/** Those with power first, then those who are there, then by name. */
function sorted(room, { store }, membership) {
  const isAway = (member) => (THERE.includes(store.person(member.user)?.presence) ? 0 : 1);
  return room
    .those(membership)
    .sort(
      (a, b) => room.power.of(b.user) - room.power.of(a.user) || isAway(a) - isAway(b) || a.name.localeCompare(b.name),
    );
}

function lookOf(member, room, { store }) {
  const person = store.person(member.user);
  return JSON.stringify([
    room.nameOf(member.user),
    member.avatar,
    room.power.of(member.user),
    person?.presence,
    person?.status,
  ]);
}

function entry(member, room, chat) {
  const person = chat.store.person(member.user);
  const title = Power.title(room.power.of(member.user));
  return h(
    "li",
    {},
    h(
      "button",
      {
        type: "button",
        class: "person-entry",
        "aria-haspopup": "dialog",
        title: member.user,
        dataset: { user: member.user },
        onclick: () => showPerson(chat, member.user),
      },
      h("span", { class: "with-dot" }, avatar(member.user, member.name, member.avatar), presenceDot(person)),
      h(
        "span",
        { class: "person-words" },
        h(
          "span",
          { class: "person-entry-name" },
          room.nameOf(member.user),
          member.user === chat.userId && h("span", { class: "quiet" }, " (you)"),
        ),
        (title || person?.status) &&
          h(
            "span",
            { class: "quiet" },
            title && h("span", { class: "tag" }, title),
            title && person?.status ? " " : "",
            person?.status,
          ),
      ),
    ),
  );
}
