/** Who somebody is, and what one may do about them in the room that is open. */

import { Power } from "../model/power.js";
import { localpart } from "../model/room.js";
import { avatar, PRESENCE } from "./avatar.js";
import { doIn, openDialog, showFault } from "./dialogs.js";
import { byId, h, together } from "./dom.js";
import { ago } from "./text.js";

/** The user whom the dialog is about. @type {?string} */
let shown = null;

/**
 * @param {import("./chat.js").Chat} chat
 * @param {string} user
 */
export function showPerson(chat, user) {
  shown = user;
  byId("person-reason").value = "";
  byId("person-level").value = String(chat.room.power.of(user));
  openDialog("person-dialog");
  show(chat);
}

/** @param {import("./chat.js").Chat} chat */
export function mountPerson(chat) {
  const dialog = byId("person-dialog");
  const { api, store } = chat;
  const showSoon = together(() => dialog.open && show(chat));
  store.addEventListener("room", showSoon);
  store.addEventListener("people", showSoon);

  const act = (action) =>
    doIn(dialog, () => api.changeMembership(chat.room.id, action, shown, byId("person-reason").value.trim()));
  byId("person-kick").onclick = () => act("kick");
  byId("person-ban").onclick = () => act("ban");
  byId("person-unban").onclick = () => act("unban");
  const setLevel = () => {
    const level = Number(byId("person-level").value);
    if (!byId("person-level").value || !Number.isSafeInteger(level)) {
      showFault(dialog, "The power must be a whole number.");
      return;
    }
    const content = chat.room.power.withLevel(shown, level);
    doIn(dialog, () => api.setState(chat.room.id, "m.room.power_levels", content));
  };
  byId("person-level-save").onclick = setLevel;
  byId("person-level").addEventListener("keydown", (event) => event.key === "Enter" && setLevel());
}

/** @param {import("./chat.js").Chat} chat */
function show({ room, store, userId }) {
  if (!room) {
    // Somebody has just removed us from it.
    byId("person-dialog").close();
    return;
  }
  const member = room.members.get(shown);
  const name = member?.name ?? localpart(shown);
  byId("person-name").textContent = name;
  byId("person-id").textContent = shown;
  byId("person-avatar").replaceChildren(avatar(shown, name, member?.avatar, "large"));
  showPresence(store.person(shown));
  showPower(room.power, userId);
  const isIn = ["join", "invite"].includes(member?.membership);
  const mayKick = isIn && room.power.mayRemove(userId, "kick", shown);
  const mayBan = member?.membership !== "ban" && room.power.mayRemove(userId, "ban", shown);
  byId("person-kick").hidden = !mayKick;
  byId("person-ban").hidden = !mayBan;
  byId("person-unban").hidden = member?.membership !== "ban" || !room.power.mayUnban(userId);
  byId("person-reason-field").hidden = !mayKick && !mayBan;
}

/** What power they have: as a field, for who may change it. @param {Power} power */
function showPower(power, userId) {
  const mayChange = power.mayChangeLevel(userId, shown);
  byId("person-power").hidden = !mayChange;
  byId("person-level").max = String(power.of(userId));
  byId("person-level-shown").hidden = mayChange;
  byId("person-level-shown").textContent = `${Power.title(power.of(shown)) || "No special power"} in this room`;
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
