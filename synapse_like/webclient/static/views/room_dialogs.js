/** Making, finding and describing rooms, and inviting people to them. */

import { newTransaction } from "../api.js";
import { avatar } from "./avatar.js";
import { confirm, doIn } from "./dialogs.js";
import { byId, h, notice } from "./dom.js";

/** @param {import("./chat.js").Chat} chat */
export function mountRoomDialogs(chat) {
  mountCreate(chat);
  mountFind(chat);
  mountInvite(chat);
  mountAbout(chat);
}

/** Call a function whenever a dialog is opened. */
function onOpen(dialog, work) {
  new MutationObserver(() => dialog.open && work()).observe(dialog, { attributeFilter: ["open"] });
}

const valueOf = (id) => byId(id).value.trim();

/** Wait until a room is there that was just joined; gives what opens it. */
async function entering(chat, roomId) {
  if (chat.store.rooms.get(roomId)?.membership !== "join") await chat.sync.load(roomId);
  return () => chat.open(roomId);
}

/** @param {import("./chat.js").Chat} chat */
function mountCreate(chat) {
  const dialog = byId("create-dialog");
  let transaction = newTransaction();
  byId("create-server").textContent = `:${chat.server}`;
  onOpen(dialog, () => {
    byId("create-form").reset();
    transaction = newTransaction();
  });
  // Another wish is another request; the same wish once more is the same.
  byId("create-form").addEventListener("input", () => (transaction = newTransaction()));
  byId("create-form").addEventListener("submit", (event) => {
    event.preventDefault();
    doIn(dialog, async () => {
      const wish = { visibility: byId("create-public").checked ? "public" : "private" };
      const alias = valueOf("create-alias").replace(/^#/, "").replace(`:${chat.server}`, "");
      if (valueOf("create-name")) wish.name = valueOf("create-name");
      if (valueOf("create-topic")) wish.topic = valueOf("create-topic");
      if (alias) wish.room_alias_name = alias;
      if (valueOf("create-invite")) wish.invite = valueOf("create-invite").split(/[\s,]+/);
      const { room_id } = await chat.api.createRoom(wish, transaction);
      return entering(chat, room_id);
    });
  });
}

/** @param {import("./chat.js").Chat} chat */
function mountFind(chat) {
  const dialog = byId("find-dialog");
  let rooms = [];
  const join = (room) => doIn(dialog, async () => entering(chat, (await chat.api.join(room)).room_id));

  const show = (isThere = true) => {
    const wanted = valueOf("find-alias").toLowerCase();
    const found = rooms.filter((room) =>
      [room.name, room.topic, ...(room.aliases ?? [])].some((word) => (word ?? "").toLowerCase().includes(wanted)),
    );
    byId("public-rooms").replaceChildren(...found.map((room) => publicRoom(room, chat, join)));
    const words = rooms.length ? "None of them is called so." : "There are no public rooms yet.";
    byId("no-public-rooms").textContent = !isThere ? "Loading…" : found.length ? "" : words;
  };
  onOpen(dialog, async () => {
    byId("find-form").reset();
    rooms = [];
    show(false);
    try {
      rooms = (await chat.api.publicRooms()).chunk;
      show();
    } catch (error) {
      byId("no-public-rooms").textContent = error.message;
    }
  });
  byId("find-alias").addEventListener("input", () => show());
  byId("find-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const wanted = valueOf("find-alias");
    if (/^[#!]/.test(wanted)) join(wanted.includes(":") ? wanted : `${wanted}:${chat.server}`);
    else byId("public-rooms").querySelector("button")?.click();
  });
}

function publicRoom(room, chat, join) {
  const alias = room.aliases?.[0];
  const name = room.name || alias || room.room_id;
  const isIn = chat.store.rooms.get(room.room_id)?.membership === "join";
  const count = room.num_joined_members;
  const go = isIn
    ? () => {
        byId("find-dialog").close();
        chat.open(room.room_id);
      }
    : () => join(alias ?? room.room_id);
  return h(
    "li",
    {},
    avatar(room.room_id, name, null),
    h(
      "span",
      { class: "room-words" },
      h("span", { class: "room-entry-name" }, name),
      h(
        "span",
        { class: "room-entry-last" },
        [alias, room.topic, `${count} ${count === 1 ? "person" : "people"}`].filter(Boolean).join(" · "),
      ),
    ),
    h(
      "button",
      {
        type: "button",
        class: isIn ? "other" : "main",
        "aria-label": `${isIn ? "Open" : "Join"} ${name}`,
        onclick: go,
      },
      isIn ? "Open" : "Join",
    ),
  );
}

/** @param {import("./chat.js").Chat} chat */
function mountInvite(chat) {
  const dialog = byId("invite-dialog");
  onOpen(dialog, () => byId("invite-form").reset());
  byId("invite-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const typed = valueOf("invite-user");
    const named = typed.startsWith("@") ? typed : `@${typed}`;
    const user = named.includes(":") ? named : `${named}:${chat.server}`;
    doIn(dialog, async () => {
      await chat.api.changeMembership(chat.room.id, "invite", user);
      notice(`${user} is invited.`);
    });
  });
}

/** @param {import("./chat.js").Chat} chat */
function mountAbout(chat) {
  const dialog = byId("room-dialog");
  byId("room-button").dataset.opens = "room-dialog";
  onOpen(dialog, () => {
    const { room, userId } = chat;
    byId("about-name").value = room.content("m.room.name")?.name ?? "";
    byId("about-topic").value = room.topic;
    byId("about-name").readOnly = !room.power.maySet(userId, "m.room.name");
    byId("about-topic").readOnly = !room.power.maySet(userId, "m.room.topic");
    byId("about-save").hidden = byId("about-name").readOnly && byId("about-topic").readOnly;
    const rule = room.content("m.room.join_rules")?.join_rule;
    const facts = [
      ["Who may join", rule === "public" ? "Anyone" : "Who is invited"],
      ["Aliases", room.aliases.join(", ") || "none"],
      ["Room ID", room.id],
    ];
    byId("about-facts").replaceChildren(...facts.flatMap(([term, fact]) => [h("dt", {}, term), h("dd", {}, fact)]));
  });
  byId("about-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const { room, api } = chat;
    doIn(dialog, async () => {
      const [name, topic] = [valueOf("about-name"), valueOf("about-topic")];
      if (name !== (room.content("m.room.name")?.name ?? "")) await api.setState(room.id, "m.room.name", { name });
      if (topic !== room.topic) await api.setState(room.id, "m.room.topic", { topic });
    });
  });
  byId("leave-button").onclick = () => {
    const { room } = chat;
    dialog.close();
    confirm({
      title: `Leave ${room.name}?`,
      text:
        room.content("m.room.join_rules")?.join_rule === "public"
          ? "You can join it again."
          : "To come back you must be invited again.",
      yes: "Leave",
      work: async () => {
        await chat.api.leave(room.id);
        chat.store.forget(room.id);
      },
    });
  };
}
