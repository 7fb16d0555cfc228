/** One line of a conversation: a message, something that happened in the room, or what is still on its way. */

import { mediaAddress } from "../api.js";
import { localpart } from "../model/room.js";
import { avatar, colourOf } from "./avatar.js";
import { openDialog } from "./dialogs.js";
import { byId, h, icon } from "./dom.js";
import { isoTimeOf, sizeName, timeOf, wholeTimeOf, withLinks } from "./text.js";

const PICTURE = { width: 640, height: 480, method: "scale" };
/** What a picture takes at the most, in the units of its own. */
const MOST_WIDE = 400;
const MOST_HIGH = 320;

/** @typedef {import("../model/room.js").Room} Room */
/** @typedef {import("../model/store.js").MatrixEvent} MatrixEvent */

const text = (value) => (typeof value === "string" ? value : "");

/** An event in one line of plain words, for the list of rooms. @param {Room} room @param {?MatrixEvent} event */
export function preview(room, event) {
  if (!event) return room.topic;
  if (event.content.msgtype === "m.emote") return `${room.nameOf(event.user_id)} ${text(event.content.body)}`;
  const who = event.user_id === room.userId ? "You" : room.nameOf(event.user_id);
  return `${who}: ${wordsOf(event.content)}`;
}

/** What a message says, in words. */
export function wordsOf(content) {
  const kinds = { "m.image": "picture", "m.audio": "sound", "m.video": "video", "m.file": "file" };
  const kind = kinds[content.msgtype];
  return kind ? `${kind} ${text(content.body)}`.trim() : text(content.body);
}

/** What a state event says, in words; null if it is nothing to be shown. @param {Room} room @param {MatrixEvent} event */
export function happening(room, event) {
  const who = room.nameOf(event.user_id);
  const { content } = event;
  switch (event.type) {
    case "m.room.create":
      return `${who} created the room.`;
    case "m.room.name":
      return content.name ? `${who} named the room “${text(content.name)}”.` : `${who} took the room's name away.`;
    case "m.room.topic":
      return content.topic ? `${who} set the topic: ${text(content.topic)}` : `${who} took the topic away.`;
    case "m.room.member":
      return membershipChange(room, event);
    case "m.room.power_levels":
      return event.prev_content ? `${who} changed who may do what.` : null;
    default:
      return null;
  }
}

function membershipChange(room, event) {
  const who = room.nameOf(event.user_id);
  const { membership, displayname, reason } = event.content;
  const whom = text(displayname) || room.nameOf(event.state_key);
  const isOwn = event.user_id === event.state_key;
  const before = event.prev_content?.membership ?? event.content.prev;
  const why = text(reason) ? `: ${reason}` : ".";
  if (membership === "invite") return `${who} invited ${whom}.`;
  if (membership === "ban") return `${who} banned ${whom}${why}`;
  if (membership === "knock") return `${whom} would like to come in.`;
  const isMaker = isOwn && !before && room.state("m.room.create")?.user_id === event.user_id;
  if (membership === "join" && isMaker) return null;
  if (membership === "join") return before === "join" ? profileChange(event, whom) : `${whom} joined.`;
  if (isOwn) return before === "invite" ? `${whom} declined the invitation.` : `${whom} left.`;
  if (before === "ban") return `${who} unbanned ${whom}.`;
  return before === "invite" ? `${who} took back the invitation of ${whom}.` : `${who} removed ${whom}${why}`;
}

function profileChange(event, whom) {
  const before = event.prev_content ?? {};
  if (text(before.displayname) !== text(event.content.displayname)) {
    return `${text(before.displayname) || localpart(event.state_key)} is now called ${whom}.`;
  }
  return before.avatar_url === event.content.avatar_url ? null : `${whom} has a new picture.`;
}

/**
 * @param {Room} room
 * @param {MatrixEvent} event
 * @param {{isFirst: boolean, onRedact: ?() => void, onPerson: (user: string) => void}} options `isFirst`: of several of
 *   the same person in a row
 */
export function messageLine(room, event, { isFirst, onRedact, onPerson }) {
  const isOwn = event.user_id === room.userId;
  const name = room.nameOf(event.user_id);
  const time = h(
    "time",
    { datetime: isoTimeOf(event.origin_server_ts), title: wholeTimeOf(event.origin_server_ts) },
    timeOf(event.origin_server_ts),
  );
  const line = frame({ isOwn, isFirst, kind: kindOf(event) });
  line.dataset.event = event.event_id;
  line.dataset.sender = event.user_id;
  if (isFirst && !isOwn) {
    line.append(
      h(
        "button",
        {
          type: "button",
          class: "face",
          tabindex: "-1",
          "aria-label": `Profile of ${name}`,
          onclick: () => onPerson(event.user_id),
        },
        avatar(event.user_id, name, room.avatarOf(event.user_id)),
      ),
    );
  }
  const bubble = h("div", { class: "bubble" });
  if (!isOwn)
    bubble.append(h("span", { class: `sender ink-${colourOf(event.user_id)}${isFirst ? "" : " for-ears"}` }, name));
  else bubble.append(h("span", { class: "for-ears" }, "You: "));
  bubble.append(event.redacted_because ? h("p", { class: "body gone" }, "Deleted") : bodyOf(event.content, name), time);
  line.append(bubble);
  if (onRedact) {
    bubble.append(
      h(
        "button",
        {
          type: "button",
          class: "icon small act",
          tabindex: "-1",
          "aria-label": "Delete this message",
          title: "Delete",
          onclick: onRedact,
        },
        icon("trash"),
      ),
    );
  }
  return line;
}

function kindOf(event) {
  if (event.redacted_because) return "redacted";
  return { "m.emote": "emote", "m.notice": "notice-line", "m.image": "picture-line" }[event.content.msgtype] ?? "";
}

/** Something that happened in the room. */
export function happeningLine(words, event) {
  const line = h("li", { class: "line happening", dataset: { event: event.event_id } }, h("p", {}, words));
  line.title = wholeTimeOf(event.origin_server_ts);
  return line;
}

/**
 * What is on its way, or was not sent.
 * @param {import("../model/outbox.js").Echo} echo
 * @param {{isFirst: boolean, onRetry: () => void, onDrop: () => void}} options
 */
export function echoLine(echo, { isFirst, onRetry, onDrop }) {
  const line = frame({ isOwn: true, isFirst, kind: `echo ${echo.stage}` });
  const bubble = h(
    "div",
    { class: "bubble" },
    h("span", { class: "for-ears" }, "You: "),
    bodyOf(echo.content, "You", echo.preview),
  );
  if (echo.stage === "uploading") {
    bubble.append(
      h("progress", { max: "100", value: String(Math.round(echo.progress * 100)), "aria-label": "Uploading" }),
      h("button", { type: "button", class: "link", onclick: onDrop }, "Cancel"),
    );
  }
  if (echo.stage !== "failed") {
    bubble.append(h("span", { class: "stage-word" }, echo.stage === "sent" ? timeOf(echo.ts) : "Sending…"));
    line.append(bubble);
    return line;
  }
  line.append(
    bubble,
    h(
      "p",
      { class: "not-sent", role: "alert" },
      h("span", {}, `Not sent. ${echo.reason} `),
      h("button", { type: "button", class: "link", onclick: onRetry }, "Try again"),
      " ",
      h("button", { type: "button", class: "link", onclick: onDrop }, "Discard"),
    ),
  );
  return line;
}

function frame({ isOwn, isFirst, kind }) {
  return h("li", {
    class: `line message ${isOwn ? "own" : "other"} ${isFirst ? "first" : ""} ${kind}`,
    tabindex: "-1",
  });
}

/**
 * @param {string} name of who says it
 * @param {?string} local where its picture is as long as it is only here
 */
function bodyOf(content, name, local = null) {
  switch (content.msgtype) {
    case "m.emote":
      return h("p", { class: "body" }, `* ${name} `, ...withLinks(text(content.body)));
    case "m.image":
      return pictureOf(content, local);
    case "m.audio":
    case "m.video":
      return playable(content);
    case "m.file":
      return fileOf(content);
    default:
      return h("p", { class: "body" }, ...withLinks(text(content.body) || "(a message that this page cannot show)"));
  }
}

/** A smaller picture, in a frame of the right size from the beginning, that leads to the whole one. */
function pictureOf(content, local) {
  const whole = mediaAddress(content.url);
  const source = local ?? mediaAddress(content.url, PICTURE);
  if (!source) return fileOf(content);
  const title = text(content.body) || "picture";
  const [width, height] = fitting(content.info);
  const picture = h("img", { src: source, alt: title, width, height, decoding: "async" });
  picture.addEventListener("error", () =>
    picture.replaceWith(h("span", { class: "no-picture" }, `${title} cannot be shown`)),
  );
  return h("button", { type: "button", class: "picture", onclick: () => showPicture(title, whole ?? source) }, picture);
}

function fitting(info) {
  const [width, height] = [Number(info?.w), Number(info?.h)];
  if (!(width > 0 && height > 0)) return [null, null];
  const scale = Math.min(1, MOST_WIDE / width, MOST_HIGH / height);
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

function showPicture(title, source) {
  openDialog("picture-dialog");
  byId("picture-title").textContent = title;
  byId("picture").src = source;
  byId("picture").alt = title;
  byId("picture-file").href = source;
}

function playable(content) {
  const source = mediaAddress(content.url);
  if (!source) return fileOf(content);
  const tag = content.msgtype === "m.audio" ? "audio" : "video";
  return h("div", { class: "playable" }, h(tag, { src: source, controls: true, preload: "none" }), fileOf(content));
}

function fileOf(content) {
  const source = mediaAddress(content.url);
  const name = text(content.body) || "file";
  const size = sizeName(content.info?.size);
  const words = h(
    "span",
    { class: "file-words" },
    h("span", { class: "file-name" }, name),
    size && h("span", { class: "quiet" }, size),
  );
  if (source)
    return h(
      "a",
      { class: "file", href: source, download: name, target: "_blank", rel: "noopener noreferrer" },
      icon("file"),
      words,
    );
  // It lies elsewhere in the web: whoever wants to go there may.
  return h("p", { class: "body" }, name, " ", ...withLinks(text(content.url)));
}
