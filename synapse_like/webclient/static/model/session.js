/** Who is logged in, kept by the browser until they log out. */

const SESSION = "synapse_like.session";
/** What the pages of the server that log people in are told, and what they leave behind: see `hand_over.js` there. */
const EXPECTED = "synapse_like.expects_login";
const HANDED_OVER = "synapse_like.login";
const API = "/_matrix/client/api/v1";

/**
 * @typedef {{user_id: string, access_token: string, home_server: string}} Session
 */

/** @returns {?Session} */
export function savedSession() {
  return readFrom(localStorage, SESSION);
}

/** @param {Session} session */
export function saveSession(session) {
  const { user_id, access_token, home_server } = session;
  localStorage.setItem(SESSION, JSON.stringify({ user_id, access_token, home_server }));
}

export function forgetSession() {
  localStorage.removeItem(SESSION);
}

/** @param {() => void} told called when another tab has logged in or out */
export function onOtherTabs(told) {
  addEventListener("storage", (event) => {
    if (event.key === SESSION || event.key === null) told();
  });
}

/**
 * Go to the server's own page, which can log in or register in every way there is. It comes back to this page, in the
 * same tab.
 * @param {"login"|"register"} purpose
 */
export function goToFallback(purpose) {
  sessionStorage.setItem(EXPECTED, String(Date.now()));
  location.assign(`${API}/${purpose}/fallback`);
}

/** @returns {?Session} what that page has left behind, once */
export function handedOver() {
  const session = readFrom(sessionStorage, HANDED_OVER);
  sessionStorage.removeItem(HANDED_OVER);
  sessionStorage.removeItem(EXPECTED);
  return session;
}

/** @returns {?Session} */
function readFrom(storage, key) {
  try {
    const found = JSON.parse(storage.getItem(key));
    return typeof found?.user_id === "string" && typeof found?.access_token === "string" ? found : null;
  } catch {
    return null;
  }
}
