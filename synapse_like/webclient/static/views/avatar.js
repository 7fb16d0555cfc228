/** The picture of a person or a room, or a letter in a colour that is always the same for them. */

import { mediaAddress } from "../api.js";
import { h } from "./dom.js";

const COLOURS = 8;
/** Width and height of the pictures, large enough for all places where they are shown. */
const SIDE = 96;

/**
 * @param {string} id of whom or what
 * @param {string} name
 * @param {?string} address of the picture
 * @param {"normal"|"large"} [size]
 */
export function avatar(id, name, address, size = "normal") {
  const kind = id.startsWith("!") ? "room" : "person";
  const shown = h(
    "span",
    { class: `avatar ${kind} ${size} colour-${colourOf(id)}`, "aria-hidden": "true" },
    initial(name),
  );
  const source = mediaAddress(address, { width: SIDE, height: SIDE, method: "crop" });
  if (source) {
    const picture = h("img", { src: source, alt: "", loading: "lazy" });
    picture.addEventListener("error", () => picture.remove());
    shown.append(picture);
  }
  return shown;
}

/** A number from 0 to 7 for a text. */
export function colourOf(text) {
  let sum = 0;
  for (let index = 0; index < text.length; index += 1) sum = (sum * 31 + text.charCodeAt(index)) % 65521;
  return sum % COLOURS;
}

function initial(name) {
  const letters = [...name.replace(/^[#@!]+/, "").trim()];
  return (letters[0] ?? "?").toUpperCase();
}

/** Whether somebody is there, as a dot and a word for those who do not see it. */
export function presenceDot(person) {
  const state = person?.presence ?? "offline";
  const word = PRESENCE[state] ?? PRESENCE.offline;
  return h("span", { class: `dot ${state}`, title: word }, h("span", { class: "for-ears" }, ` (${word})`));
}

export const PRESENCE = {
  online: "online",
  free_for_chat: "free for chat",
  unavailable: "away",
  offline: "offline",
  hidden: "hidden",
};
