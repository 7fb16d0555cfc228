/** Shortcuts, and the list of them in the help. */

import { openDialog } from "./dialogs.js";
import { byId, h } from "./dom.js";
import { shownRooms } from "./room_list.js";

/** @type {[string[], string][]} */
const SHORTCUTS = [
  [["Alt", "↑"], "The room above"],
  [["Alt", "↓"], "The room below"],
  [["Alt", "Shift", "↓"], "The next unread room"],
  [["Ctrl", "K"], "Filter the rooms"],
  [["↑"], "From an empty field: to the messages, and up in them"],
  [["Delete"], "Delete the message that has the focus"],
  [["Enter"], "Send, or open what has the focus"],
  [["Shift", "Enter"], "A new line"],
  [["Esc"], "Close a dialog, or back to writing"],
  [["?"], "This help"],
];

/** @param {import("./chat.js").Chat} chat */
export function mountKeys(chat) {
  byId("shortcuts").replaceChildren(
    ...SHORTCUTS.map(([keys, what]) =>
      h(
        "div",
        {},
        h("dt", {}, ...keys.flatMap((key, index) => [index ? " + " : "", h("kbd", {}, key)])),
        h("dd", {}, what),
      ),
    ),
  );
  addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const isTyping = event.target.matches?.("input, textarea, select");
    if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      move(chat, event.key === "ArrowDown" ? 1 : -1, event.shiftKey);
    } else if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      chat.pane = "rooms";
      byId("room-filter").focus();
    } else if (event.key === "?" && !isTyping) {
      openDialog("help-dialog");
    } else if (event.key === "Escape" && chat.pane === "people") {
      byId("people-close").click();
    } else if (event.key === "Escape" && chat.room) {
      byId("composer-text").focus();
    } else {
      return;
    }
    event.preventDefault();
  });
}

/** Open another room of the list, and go round at its ends. */
function move(chat, step, onlyUnread) {
  const rooms = shownRooms(chat);
  const at = rooms.findIndex((room) => room.id === chat.store.openRoom);
  const start = at < 0 && step < 0 ? 0 : at;
  for (let tried = 1; tried <= rooms.length; tried += 1) {
    const room = rooms[(start + step * tried + rooms.length * 2) % rooms.length];
    if (!onlyUnread || room.unread || room.membership === "invite") {
      chat.open(room.id);
      return;
    }
  }
}
