/** Who one is: one's own name, picture and status, and the way out. */

import { localpart } from "../model/room.js";
import { avatar, presenceDot } from "./avatar.js";
import { doIn, openDialog } from "./dialogs.js";
import { byId, h, together } from "./dom.js";

/**
 * @param {import("./chat.js").Chat} chat
 * @param {() => Promise<void>} logOut
 */
export function mountProfile(chat, logOut) {
  const { api, userId, store } = chat;
  const dialog = byId("me-dialog");
  let profile = {};
  /** What the dialog was opened with: only what differs is sent. */
  let shown = {};

  const show = () => {
    const name = profile.displayname || localpart(userId);
    const own = store.person(userId);
    byId("me").replaceChildren(
      h("span", { class: "with-dot" }, avatar(userId, name, profile.avatar_url), presenceDot(own)),
      h("span", { class: "me-words" }, h("strong", {}, name), h("span", { class: "quiet" }, own.status || userId)),
      h("span", { class: "for-ears" }, ": your profile"),
    );
    byId("me-avatar").replaceChildren(avatar(userId, name, profile.avatar_url, "large"));
  };
  const load = async () => {
    try {
      profile = await api.profile(userId);
      show();
    } catch {
      // The name is shown by the ID until the connection is there again, and this is called again.
    }
  };

  byId("me-id").textContent = userId;
  byId("me").onclick = () => {
    const own = store.person(userId);
    shown = { name: profile.displayname ?? "", presence: own.presence, status: own.status };
    byId("me-name").value = shown.name;
    byId("me-presence").value = shown.presence === "offline" ? "online" : shown.presence;
    byId("me-status").value = shown.status;
    openDialog("me-dialog");
  };
  byId("me-form").addEventListener("submit", (event) => {
    event.preventDefault();
    doIn(dialog, async () => {
      const name = byId("me-name").value.trim();
      if (name !== shown.name) await api.setProfile(userId, "displayname", name);
      const [presence, status] = [byId("me-presence").value, byId("me-status").value.trim()];
      if (presence !== shown.presence || status !== shown.status) {
        await api.setPresence(userId, presence, status);
        store.setOwnPresence(presence, status);
      }
      await load();
    });
  });
  byId("me-picture").onclick = () => byId("me-file").click();
  byId("me-file").addEventListener("change", () => {
    const [file] = byId("me-file").files;
    byId("me-file").value = "";
    if (!file) return;
    doIn(
      dialog,
      async () => {
        const address = await api.upload(file, () => {});
        await api.setProfile(userId, "avatar_url", address);
        await load();
      },
      { stays: true },
    );
  });
  byId("log-out").onclick = () => doIn(dialog, logOut);

  const showSoon = together(show);
  store.addEventListener("people", showSoon);
  chat.sync.addEventListener("connection", () => chat.sync.connection === "online" && load());
  show();
  // Where presence is turned off there is nothing to be set.
  api.presence(userId).catch((error) => (byId("me-presence-fields").hidden = error.status === 403));
}
