/**
 * Keeps a store at the present: one snapshot, and from then on the event stream.
 *
 * When the server is away it tries again, less and less often, and at once when there is a reason to hope. After a long
 * absence, or with a token that the server does not know, it begins anew with a snapshot.
 */

import { ApiError } from "../api.js";
import { pauseAfter } from "./backoff.js";
import { PAGE } from "./store.js";

/** How long the server is to wait for news, in milliseconds. */
const POLL = 30_000;
/** After how long an absence a snapshot is better than everything that was missed. */
const LONG_ABSENCE = 10 * 60_000;

/** @typedef {"starting"|"online"|"away"} Connection */

export class Sync extends EventTarget {
  #isStopped = false;
  #token = null;
  #heardAt = 0;
  #failures = 0;
  #wake = () => {};
  #poll = new AbortController();

  /**
   * Tells `connection` when that changes, `recovered` when the server is heard again that was not, if only once, and
   * `ended` when the access token is no longer good.
   * @param {import("../api.js").Api} api
   * @param {import("./store.js").Store} store
   */
  constructor(api, store) {
    super();
    this.api = api;
    this.store = store;
    /** @type {Connection} */
    this.connection = "starting";
    store.onJoined = (room) => this.load(room);
  }

  start() {
    this.#run();
  }

  stop() {
    this.#isStopped = true;
    this.#poll.abort();
    this.#wake();
  }

  /** Try now. */
  hurry() {
    this.#wake();
  }

  /** The network is gone: what is waited for will not come. */
  breakOff() {
    this.#poll.abort();
  }

  async #run() {
    while (!this.#isStopped) {
      try {
        await this.#step();
      } catch (error) {
        if (this.#isStopped) return;
        if (error instanceof ApiError && error.isLoggedOut) {
          this.stop();
          this.dispatchEvent(new Event("ended"));
        } else if (error instanceof ApiError && error.status === 400 && this.#token) {
          this.#token = null;
        } else {
          await this.#pause(error);
        }
      }
    }
  }

  async #step() {
    const isLate = Date.now() - this.#heardAt > LONG_ABSENCE;
    if (!this.#token || isLate) {
      const snapshot = await this.api.initialSync(PAGE);
      if (this.#isStopped) return;
      this.store.reset(snapshot);
      this.#token = snapshot.end;
    } else {
      this.#poll = new AbortController();
      // After a failure it is asked first whether the server is there at all.
      const timeout = this.#failures ? 0 : POLL;
      const chunk = await this.api.events(this.#token, timeout, this.#poll.signal);
      if (this.#isStopped) return;
      this.store.apply(chunk);
      this.#token = chunk.end;
    }
    const wasAway = this.#failures > 0;
    this.#heardAt = Date.now();
    this.#failures = 0;
    this.#set("online");
    if (wasAway) this.dispatchEvent(new Event("recovered"));
  }

  async #pause(error) {
    this.#failures += 1;
    // A poll may break off for no reason at all; the user need not be told of that.
    if (this.#failures > 1 || this.connection === "starting") this.#set("away");
    const wait = Math.max(error.retryAfter ?? 0, pauseAfter(this.#failures));
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, wait);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /** @param {Connection} connection */
  #set(connection) {
    if (this.connection === connection) return;
    this.connection = connection;
    this.dispatchEvent(new Event("connection"));
  }

  /**
   * Load a room anew: one that was just joined, or one that somebody has paged far back in.
   * @param {string} roomId
   */
  async load(roomId) {
    this.store.expectLoad(roomId);
    for (let failures = 1; !this.#isStopped; failures += 1) {
      try {
        this.store.load(await this.api.roomInitialSync(roomId, PAGE));
        return;
      } catch (error) {
        if (error instanceof ApiError && !error.isPassing) {
          // They are out of it again.
          this.store.forget(roomId);
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, error.retryAfter ?? pauseAfter(failures)));
      }
    }
  }
}
