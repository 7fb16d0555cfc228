/**
 * The events of a room, as far as they are in memory.
 *
 * They lie in pages, oldest first; each page knows the token from which history goes on before it. So pages at either
 * end can be let go: at the beginning, since they can be fetched again, and at the end too, when somebody has paged far
 * back; then the timeline is no longer live, until it is begun anew at the present.
 */

/** Events that are kept at the most (and one page more). */
export const MOST_EVENTS = 1000;
/** Events that are kept of a room which nobody looks at. */
export const MOST_IN_BACKGROUND = 60;

/** @typedef {import("./store.js").MatrixEvent} MatrixEvent */

export class Timeline {
  /** @type {{before: string, events: MatrixEvent[]}[]} */
  #pages = [];
  #ids = new Set();

  constructor() {
    /** Whether the newest events are here. */
    this.isLive = true;
    /** Whether there may be more before the first. */
    this.hasOlder = false;
  }

  get length() {
    return this.#ids.size;
  }

  /** @returns {MatrixEvent[]} oldest first */
  get events() {
    return this.#pages.flatMap((page) => page.events);
  }

  get last() {
    return this.#pages.at(-1)?.events.at(-1) ?? null;
  }

  /** The token before which the next page of history lies. */
  get start() {
    return this.#pages[0]?.before ?? null;
  }

  has(eventId) {
    return this.#ids.has(eventId);
  }

  /**
   * Begin anew, at the present.
   * @param {{start: string, chunk: MatrixEvent[]}} messages oldest first
   */
  reset(messages) {
    this.#ids.clear();
    this.#pages = [{ before: messages.start, events: this.#unknown(messages.chunk) }];
    this.isLive = true;
    this.hasOlder = !isBeginning(messages.chunk);
  }

  /**
   * Add what has just happened.
   * @param {MatrixEvent} event
   * @param {string} before the token after which the stream told of it
   * @returns {boolean} whether it is new
   */
  append(event, before) {
    if (!this.isLive || this.#ids.has(event.event_id)) return false;
    const last = this.#pages.at(-1);
    const events = this.#unknown([event]);
    if (last && (last.before === before || last.events.length === 0)) last.events.push(...events);
    else this.#pages.push({ before, events });
    if (this.length > 2 * MOST_EVENTS) this.shrink(MOST_EVENTS);
    return true;
  }

  /**
   * Add a page of history.
   * @param {MatrixEvent[]} chunk newest first
   * @param {string} before where it goes on
   */
  prepend(chunk, before) {
    const known = this.#pages[0];
    const events = this.#unknown(chunk.toReversed());
    if (known && known.events.length === 0) this.#pages.shift();
    this.#pages.unshift({ before, events });
    this.hasOlder = !isBeginning(chunk);
    while (this.#pages.length > 1 && this.length - this.#pages.at(-1).events.length >= MOST_EVENTS) {
      this.#forget(this.#pages.pop());
      this.isLive = false;
    }
  }

  /**
   * Let the oldest pages go, as far as they are not needed to keep some events.
   * @param {number} kept how many
   */
  shrink(kept) {
    while (this.#pages.length > 1 && this.length - this.#pages[0].events.length >= kept) {
      this.#forget(this.#pages.shift());
      this.hasOlder = true;
    }
  }

  /**
   * Take out of an event what a redaction takes out.
   * @param {string} eventId
   * @param {MatrixEvent} because
   */
  redact(eventId, because) {
    for (const page of this.#pages) {
      const index = page.events.findIndex((event) => event.event_id === eventId);
      if (index >= 0) {
        page.events[index] = redacted(page.events[index], because);
        return;
      }
    }
  }

  #unknown(events) {
    const found = events.filter((event) => !this.#ids.has(event.event_id));
    for (const event of found) this.#ids.add(event.event_id);
    return found;
  }

  #forget(page) {
    for (const event of page.events) this.#ids.delete(event.event_id);
  }
}

/** Whether there is nothing before a page. It may be short for other reasons: large events, or ignored users. */
function isBeginning(chunk) {
  return chunk.length === 0 || chunk.some((event) => event.type === "m.room.create");
}

/** What says who may do what, and stays; of memberships, the memberships do. */
const KEPT = ["create", "join_rules", "power_levels", "add_state_level", "send_event_level", "ops_levels", "aliases"];

/** What this page shows of a redacted event: that there was one. */
export function redacted(event, because) {
  const isKept = KEPT.some((name) => event.type === `m.room.${name}`);
  const membership = event.type === "m.room.member" ? { membership: event.content.membership } : {};
  const content = isKept ? event.content : membership;
  return { ...event, content, prev_content: undefined, redacted_because: because };
}
