/**
 * Speaks API v1 of a Matrix home server, and nothing else does. It knows no page: it can be used in any program that
 * has `fetch` (and `XMLHttpRequest`, for uploads that tell how far they are).
 *
 * Whoever calls gets the answer as the server gave it, an `ApiError` if the server refused, or `Unreachable` if there
 * was no answer at all.
 */

const API = "/_matrix/client/api/v1";
const MEDIA = "/_matrix/media/v1";
/** How long an answer may take that is not waited for on purpose, in milliseconds. */
const PATIENCE = 30_000;
/** How much longer than it was asked to a long poll may take. */
const GRACE = 15_000;

/** The server has refused. `message` is its sentence for the user. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {{errcode?: string, error?: string, retry_after_ms?: number}} body
   */
  constructor(status, body) {
    super(body.error || `The server answered with status ${status}.`);
    this.status = status;
    this.errcode = body.errcode ?? "M_UNKNOWN";
    /** How long to wait before the next try, in milliseconds; undefined if the server did not say. */
    this.retryAfter = body.retry_after_ms;
  }

  /** Whether the access token is not, or no longer, good. */
  get isLoggedOut() {
    return this.errcode === "M_UNKNOWN_TOKEN" || this.errcode === "M_MISSING_TOKEN";
  }

  /** Whether the same request may well succeed later. */
  get isPassing() {
    return this.status >= 500 || this.status === 429;
  }
}

/** There was no answer. */
export class Unreachable extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

/** @returns {string} a transaction ID that nobody has used: a request with it can be repeated, and is done once. */
export function newTransaction() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return `w${Date.now().toString(36)}${Array.from(bytes, (byte) => byte.toString(36).padStart(2, "0")).join("")}`;
}

/**
 * A path of encoded segments.
 * @param {TemplateStringsArray} texts
 * @param {...string} values
 */
function path(texts, ...values) {
  return texts.reduce((whole, text, index) => whole + encodeURIComponent(values[index - 1]) + text);
}

export class Api {
  /** @param {?string} token the access token; null for what anyone may ask. */
  constructor(token = null) {
    this.token = token;
  }

  // Coming and going.

  /** @param {"login"|"register"} purpose */
  async flows(purpose) {
    return (await this.#ask("GET", `/${purpose}`)).flows;
  }

  /** @param {string} user its ID or the first part of that */
  logIn(user, password) {
    return this.#ask("POST", "/login", { body: { type: "m.login.password", user, password } });
  }

  register(user, password) {
    return this.#ask("POST", "/register", { body: { type: "m.login.password", user, password } });
  }

  logOut() {
    return this.#ask("POST", "/logout", { body: {} });
  }

  // What there is, and what is new.

  /** @param {number} limit messages of each room */
  initialSync(limit) {
    return this.#ask("GET", "/initialSync", { query: { limit } });
  }

  roomInitialSync(room, limit) {
    return this.#ask("GET", path`/rooms/${room}/initialSync`, { query: { limit } });
  }

  /**
   * Wait for news.
   * @param {string} from where the last answer ended
   * @param {number} timeout milliseconds
   * @param {AbortSignal} [signal]
   */
  events(from, timeout, signal) {
    return this.#ask("GET", "/events", { query: { from, timeout }, patience: timeout + GRACE, signal });
  }

  /** A page of history before `from`, newest first. */
  messages(room, from, limit) {
    return this.#ask("GET", path`/rooms/${room}/messages`, { query: { from, dir: "b", limit } });
  }

  // Rooms.

  publicRooms() {
    return this.#ask("GET", "/publicRooms", { query: { limit: 200 } });
  }

  /**
   * @param {{name?: string, topic?: string, room_alias_name?: string, visibility: string, invite?: string[]}} wish
   * @param {string} transaction
   */
  createRoom(wish, transaction) {
    return this.#ask("PUT", path`/createRoom/${transaction}`, { body: wish });
  }

  /** @param {string} room its ID or an alias */
  join(room) {
    return this.#ask("POST", path`/join/${room}`, { body: {} });
  }

  leave(room) {
    return this.#ask("POST", path`/rooms/${room}/leave`, { body: {} });
  }

  /** @param {"invite"|"kick"|"ban"|"unban"} action */
  changeMembership(room, action, user_id, reason) {
    const body = reason ? { user_id, reason } : { user_id };
    return this.#ask("POST", path`/rooms/${room}/${action}`, { body });
  }

  setState(room, type, content, stateKey = "") {
    const place = path`/rooms/${room}/state/${type}`;
    return this.#ask("PUT", stateKey ? place + path`/${stateKey}` : place, { body: content });
  }

  send(room, type, content, transaction) {
    return this.#ask("PUT", path`/rooms/${room}/send/${type}/${transaction}`, { body: content });
  }

  redact(room, eventId, transaction) {
    return this.#ask("PUT", path`/rooms/${room}/redact/${eventId}/${transaction}`, { body: {} });
  }

  typing(room, user, typing, timeout) {
    return this.#ask("PUT", path`/rooms/${room}/typing/${user}`, { body: { typing, timeout } });
  }

  // People.

  profile(user) {
    return this.#ask("GET", path`/profile/${user}`);
  }

  /** @param {"displayname"|"avatar_url"} field */
  setProfile(user, field, value) {
    return this.#ask("PUT", path`/profile/${user}/${field}`, { body: { [field]: value } });
  }

  presence(user) {
    return this.#ask("GET", path`/presence/${user}/status`);
  }

  setPresence(user, presence, status_msg) {
    return this.#ask("PUT", path`/presence/${user}/status`, { body: { presence, status_msg } });
  }

  // Files.

  /**
   * Upload a file.
   * @param {File} file
   * @param {(part: number) => void} onProgress how much of it is there, from 0 to 1
   * @param {AbortSignal} [signal]
   * @returns {Promise<string>} its mxc: address
   */
  upload(file, onProgress, signal) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      request.open("POST", `${MEDIA}/upload?filename=${encodeURIComponent(file.name)}`);
      request.setRequestHeader("Authorization", `Bearer ${this.token}`);
      request.setRequestHeader("Content-Type", file.type || "application/octet-stream");
      request.responseType = "text";
      request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
      request.onerror = () => reject(new Unreachable());
      request.onabort = () => reject(new DOMException("called off", "AbortError"));
      request.onload = () => {
        const body = readJson(request.responseText);
        if (request.status === 200) resolve(body.content_uri);
        else reject(new ApiError(request.status, body));
      };
      signal?.addEventListener("abort", () => request.abort());
      request.send(file);
    });
  }

  /**
   * @param {string} method
   * @param {string} place below the prefix of the API
   * @param {{query?: object, body?: object, patience?: number, signal?: AbortSignal}} [options]
   */
  async #ask(method, place, { query, body, patience = PATIENCE, signal } = {}) {
    const headers = this.token ? { Authorization: `Bearer ${this.token}` } : {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const address = query ? `${API}${place}?${new URLSearchParams(query)}` : API + place;
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), patience);
    const callOff = () => late.abort();
    signal?.addEventListener("abort", callOff);
    let status, text;
    try {
      const answer = await fetch(address, {
        method,
        headers,
        body: body === undefined ? undefined : JSON.stringify(body),
        signal: late.signal,
        credentials: "omit",
        cache: "no-store",
      });
      status = answer.status;
      text = await answer.text();
    } catch {
      throw new Unreachable();
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", callOff);
    }
    const found = readJson(text);
    if (status !== 200) throw new ApiError(status, found);
    return found;
  }
}

/** What an answer says; nothing if it is no JSON, as that of a proxy may be. */
function readJson(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
  }
}

/**
 * Where a browser finds a file by the address that an event names: that of the server itself, which fetches those of
 * others. Files elsewhere in the web are not shown: who writes a message is not to learn who reads it.
 * @param {unknown} address
 * @param {{width: number, height: number, method?: string}} [thumbnail] for a smaller picture: `scale` or `crop`
 * @returns {?string}
 */
export function mediaAddress(address, thumbnail) {
  if (typeof address !== "string") return null;
  const parts = /^mxc:\/\/([^/?#]+)\/([\w.~-]+)$/.exec(address);
  if (!parts) return address.startsWith(`${location.origin}/_matrix/content/`) ? address : null;
  const file = `${encodeURIComponent(parts[1])}/${encodeURIComponent(parts[2])}`;
  if (!thumbnail) return `${MEDIA}/download/${file}`;
  const { width, height, method = "scale" } = thumbnail;
  return `${MEDIA}/thumbnail/${file}?width=${width}&height=${height}&method=${method}`;
}
