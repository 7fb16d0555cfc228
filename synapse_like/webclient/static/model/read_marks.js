/**
 * How far the user has read each room. API v1 has no way to tell the server, so the browser keeps it.
 */

export class ReadMarks {
  /**
   * @param {Storage} storage
   * @param {string} userId
   */
  constructor(storage, userId) {
    this.storage = storage;
    this.key = `synapse_like.read.${userId}`;
    /** @type {Record<string, {id: string, ts: number}>} */
    this.marks = {};
    try {
      this.marks = JSON.parse(storage.getItem(this.key)) ?? {};
    } catch {
      // What cannot be read counts as nothing read.
    }
  }

  get(room) {
    return Object.hasOwn(this.marks, room) ? this.marks[room] : null;
  }

  /** @param {import("./store.js").MatrixEvent} event the newest that was read */
  set(room, event) {
    if (this.get(room)?.id === event.event_id) return;
    this.marks[room] = { id: event.event_id, ts: event.origin_server_ts };
    this.storage.setItem(this.key, JSON.stringify(this.marks));
  }

  /** Forget rooms that the user has left. */
  keepOnly(rooms) {
    this.marks = Object.fromEntries(Object.entries(this.marks).filter(([room]) => rooms.has(room)));
    this.storage.setItem(this.key, JSON.stringify(this.marks));
  }

  /**
   * Which events of a room come after what was read.
   * @param {string} room
   * @param {import("./store.js").MatrixEvent[]} events oldest first
   */
  after(room, events) {
    const mark = this.get(room);
    if (!mark) return [];
    const index = events.findIndex((event) => event.event_id === mark.id);
    return index >= 0 ? events.slice(index + 1) : events.filter((event) => event.origin_server_ts > mark.ts);
  }
}
