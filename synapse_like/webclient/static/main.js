/** Where the page begins: with the chat if somebody is logged in here, else with the way in. */

import { forgetSession, handedOver, onOtherTabs, savedSession, saveSession } from "./model/session.js";
import { showChat } from "./views/chat.js";
import { showLogin } from "./views/login.js";

/** A sentence for the page that is loaded next. */
const MESSAGE = "synapse_like.message";
const ENDED = "Your session has ended. Please log in again.";

function start() {
  const session = handedOver() ?? savedSession();
  const message = sessionStorage.getItem(MESSAGE);
  sessionStorage.removeItem(MESSAGE);
  if (session) enter(session);
  else showLogin({ message, onSession: enter });
  onOtherTabs(() => {
    const saved = savedSession();
    if (current && !saved) leave(ENDED);
    else if (saved?.access_token !== current?.access_token) {
      current = saved;
      location.reload();
    }
  });
}

/** Who is in. @type {?import("./model/session.js").Session} */
let current = null;

function enter(session) {
  current = session;
  saveSession(session);
  showChat(session, { onEnd: leave });
}

/** @param {string} [message] why */
function leave(message = ENDED) {
  // Both the stream and another tab may tell.
  if (!current) return;
  current = null;
  forgetSession();
  sessionStorage.setItem(MESSAGE, message);
  // Begun anew, so that nothing of one user is left for the next.
  location.replace(location.pathname);
}

start();
