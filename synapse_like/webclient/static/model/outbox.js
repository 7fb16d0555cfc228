/**
 * What the user says, on its way to the server.
 *
 * It is shown at once (an *echo*), goes out one after the other in each room, and is taken for sent only when the
 * server says so. Each has one transaction ID for all its tries, so that it is never said twice.
 */

import { ApiError, newTransaction, Unreachable } from "../api.js";

/** After how many milliseconds the server is asked again whether it has something. */
const AGAIN = 2000;

/**
 * @typedef {object} Echo
 * @property {string} transaction
 * @property {object} content
 * @property {number} ts
 * @property {"waiting"|"uploading"|"sending"|"failed"|"sent"} stage
 * @property {boolean} isUnderWay whether the server may have it already
 * @property {boolean} isHidden whether the stream has most likely told of it before the answer came
 * @property {?string} reason why it was not sent
 * @property {boolean} isUnheard whether that is because the server was not there
 * @property {?string} eventId
 * @property {?File} file what is to be uploaded first
 * @property {number} progress of that, from 0 to 1
 * @property {?string} preview where the picture is as long as it is only here
 * @property {AbortController} calledOff
 */

export class Outbox {
  /** @type {Map<string, Echo[]>} */
  #queues = new Map();

  /**
   * @param {import("../api.js").Api} api
   * @param {import("./store.js").Store} store
   */
  constructor(api, store) {
    this.api = api;
    this.store = store;
  }

  /** @param {object} content of an m.room.message */
  send(roomId, content) {
    this.#add(roomId, content, null, null);
  }

  /**
   * @param {File} file
   * @param {object} content all but its address
   * @param {?string} preview
   */
  sendFile(roomId, file, content, preview) {
    this.#add(roomId, content, file, preview);
  }

  #add(roomId, content, file, preview) {
    /** @type {Echo} */
    const echo = {
      transaction: newTransaction(),
      content,
      ts: Date.now(),
      stage: "waiting",
      isUnderWay: false,
      isHidden: false,
      reason: null,
      isUnheard: false,
      eventId: null,
      file,
      progress: 0,
      preview,
      calledOff: new AbortController(),
    };
    this.store.addEcho(roomId, echo);
    this.#enqueue(roomId, echo);
  }

  /** Try once more to send something. */
  retry(roomId, echo) {
    if (echo.stage !== "failed") return;
    echo.stage = "waiting";
    echo.reason = null;
    this.store.echoChanged(roomId, echo);
    this.#enqueue(roomId, echo);
  }

  /** The server is there again: try what it did not hear. */
  retryUnheard() {
    for (const room of this.store.rooms.values()) {
      for (const echo of room.echoes) if (echo.stage === "failed" && echo.isUnheard) this.retry(room.id, echo);
    }
  }

  /** Do not send it after all. */
  drop(roomId, echo) {
    echo.calledOff.abort();
    if (echo.preview) URL.revokeObjectURL(echo.preview);
    this.store.dropEcho(roomId, echo);
  }

  #enqueue(roomId, echo) {
    const queue = this.#queues.get(roomId);
    if (queue) {
      queue.push(echo);
    } else {
      this.#queues.set(roomId, [echo]);
      this.#work(roomId);
    }
  }

  async #work(roomId) {
    const queue = this.#queues.get(roomId);
    while (queue.length) {
      const echo = queue[0];
      if (!echo.calledOff.signal.aborted) {
        try {
          await this.#deliver(roomId, echo);
        } catch (error) {
          if (!echo.calledOff.signal.aborted) this.#failed(roomId, queue, error);
        }
      }
      queue.shift();
    }
    this.#queues.delete(roomId);
  }

  /** What could not be sent; and what would have come after it, since the order is to stay. */
  #failed(roomId, queue, error) {
    const isUnheard = error instanceof Unreachable || (error instanceof ApiError && error.isPassing);
    for (const echo of isUnheard ? queue.splice(1) : []) this.#fail(roomId, echo, error, true);
    this.#fail(roomId, queue[0], error, isUnheard);
  }

  #fail(roomId, echo, error, isUnheard) {
    echo.stage = "failed";
    echo.reason = error.message;
    echo.isUnheard = isUnheard;
    if (!isUnheard) echo.isHidden = false;
    // The stream has told of something like it: the server says whether it was this.
    if (echo.isHidden) setTimeout(() => this.retry(roomId, echo), AGAIN);
    this.store.echoChanged(roomId, echo);
  }

  async #deliver(roomId, echo) {
    const change = (stage) => {
      echo.stage = stage;
      this.store.echoChanged(roomId, echo);
    };
    if (echo.file && !echo.content.url) {
      change("uploading");
      const told = (part) => {
        echo.progress = part;
        this.store.echoChanged(roomId, echo);
      };
      const url = await this.api.upload(echo.file, told, echo.calledOff.signal);
      echo.content = { ...echo.content, url };
    }
    echo.isUnderWay = true;
    change("sending");
    const { event_id } = await this.#untilAllowed(() =>
      this.api.send(roomId, "m.room.message", echo.content, echo.transaction),
    );
    echo.eventId = event_id;
    change("sent");
    // By then the picture that the server has is shown in its place.
    if (echo.preview) setTimeout(() => URL.revokeObjectURL(echo.preview), 60_000);
  }

  /** What is refused only for coming too often waits as long as the server says. */
  async #untilAllowed(request) {
    for (;;) {
      try {
        return await request();
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 429) throw error;
        await new Promise((resolve) => setTimeout(resolve, error.retryAfter ?? 1000));
      }
    }
  }
}
