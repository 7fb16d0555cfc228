/** Where messages are written: text, pictures and files; and who else is writing. */

import { byId, icon, notice, together } from "./dom.js";
import { typingWords } from "./timeline.js";

/** For how long the server is told that one types, and after how long it is told again. */
const TYPING = 30_000;
const TYPING_AGAIN = 20_000;

/** @param {import("./chat.js").Chat} chat */
export function mountComposer(chat) {
  const field = byId("composer-text");
  const files = byId("composer-file");
  const stage = document.querySelector(".stage");
  /** What is written in rooms that are not open. @type {Map<string, string>} */
  const drafts = new Map();
  const typing = new OwnTyping(chat);
  let draftOf = null;
  byId("attach").append(icon("attach"));
  byId("send").append(icon("send"));

  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      submit();
    } else if (event.key === "ArrowUp" && !field.value && !event.altKey && !event.ctrlKey) {
      const last = [...document.querySelectorAll("#messages .message")].at(-1);
      last?.focus();
      event.preventDefault();
    }
  });
  field.addEventListener("input", () => {
    fit();
    typing.typed(chat.store.openRoom, field.value !== "");
  });
  field.addEventListener("blur", () => typing.stopped());
  field.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length && !event.clipboardData.getData("text/plain")) {
      event.preventDefault();
      sendFiles(event.clipboardData.files);
    }
  });
  byId("attach").onclick = () => files.click();
  files.addEventListener("change", () => {
    sendFiles(files.files);
    files.value = "";
    field.focus();
  });
  stage.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    byId("drop-hint").hidden = false;
  });
  stage.addEventListener("dragleave", (event) => {
    if (!stage.contains(event.relatedTarget)) byId("drop-hint").hidden = true;
  });
  stage.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop-hint").hidden = true;
    sendFiles(event.dataTransfer.files);
  });

  async function submit() {
    const content = messageOf(field.value);
    const room = chat.store.openRoom;
    if (!content || !room) return;
    field.value = "";
    fit();
    typing.stopped();
    await atPresent();
    chat.outbox.send(room, content);
  }

  /** @param {FileList} list */
  async function sendFiles(list) {
    const room = chat.store.openRoom;
    const chosen = [...list];
    await atPresent();
    for (const file of chosen) {
      if (!file.size) notice(`${file.name} is empty.`);
      else await sendFile(chat, room, file);
    }
  }

  /** What is said is said at the end of the conversation, and there it is looked at. */
  async function atPresent() {
    if (!chat.room.timeline.isLive) await chat.sync.load(chat.room.id);
    byId("to-newest").click();
  }

  function fit() {
    field.rows = Math.min(8, Math.max(1, field.value.split("\n").length));
    byId("send").disabled = !messageOf(field.value);
  }

  const showTyping = together(() => (byId("typing").textContent = typingWords(chat)));
  chat.store.addEventListener("room", showTyping);
  chat.addEventListener("opened", () => {
    if (draftOf) drafts.set(draftOf, field.value);
    draftOf = chat.store.openRoom;
    field.value = drafts.get(draftOf) ?? "";
    typing.stopped();
    fit();
    showTyping();
    showWhetherAllowed();
    if (draftOf && matchMedia("(hover: hover)").matches) field.focus();
  });
  const showWhetherAllowed = together(() => {
    const maySpeak = !chat.room || chat.room.membership !== "join" || chat.room.power.maySpeak(chat.userId);
    byId("composer").hidden = !maySpeak;
    byId("may-not-speak").hidden = maySpeak;
  });
  chat.store.addEventListener("room", showWhetherAllowed);
  fit();
}

/** The content of a message; null if there is nothing to be said. @param {string} text */
function messageOf(text) {
  const body = text.trim();
  if (!body || body === "/me") return null;
  if (/^\/me\s/.test(body)) return { msgtype: "m.emote", body: body.slice(4).trim() };
  return { msgtype: "m.text", body };
}

const KINDS = { image: "m.image", audio: "m.audio", video: "m.video" };

/**
 * @param {import("./chat.js").Chat} chat
 * @param {string} room
 * @param {File} file
 */
async function sendFile(chat, room, file) {
  const info = { mimetype: file.type || "application/octet-stream", size: file.size };
  const isPicture = /^image\/(png|jpeg|gif|webp|apng|avif)$/.test(file.type);
  const preview = isPicture ? URL.createObjectURL(file) : null;
  Object.assign(info, isPicture && (await sizeOf(file)));
  const kind = file.type.split("/")[0];
  const msgtype = kind === "image" && !isPicture ? "m.file" : (KINDS[kind] ?? "m.file");
  chat.outbox.sendFile(room, file, { msgtype, body: file.name, info }, preview);
}

/** How wide and high a picture is; nothing if it is none. */
async function sizeOf(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const size = { w: bitmap.width, h: bitmap.height };
    bitmap.close();
    return size;
  } catch {
    return {};
  }
}

/** Tells the others that the user types, and no longer. */
class OwnTyping {
  #room = null;
  #toldAt = 0;

  /** @param {import("./chat.js").Chat} chat */
  constructor(chat) {
    this.chat = chat;
  }

  typed(room, isTyping) {
    if (!isTyping) this.stopped();
    else if (this.#room !== room || Date.now() - this.#toldAt > TYPING_AGAIN) {
      this.stopped();
      this.#room = room;
      this.#toldAt = Date.now();
      this.#tell(room, true);
    }
  }

  stopped() {
    if (this.#room) this.#tell(this.#room, false);
    this.#room = null;
  }

  #tell(room, isTyping) {
    this.chat.api.typing(room, this.chat.userId, isTyping, TYPING).catch(() => {
      // It is worth nothing a moment later, and is said again while one goes on.
    });
  }
}
