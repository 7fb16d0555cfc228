/**
 * What is known: rooms, people, and what is new about them. It knows no page and no network; `sync.js` puts in what the
 * server tells, and whoever shows it is told by events:
 *
 * - `rooms`: the list of rooms has changed, or the order or the marks in it
 * - `room` (detail: its ID): its timeline, its state, or who types in it
 * - `message` (detail: the event): somebody has just said something
 * - `removed` (detail: the room and the event): somebody has removed the user from a room
 * - `people`: presence
 */

import { Room } from "./room.js";
import { MOST_IN_BACKGROUND } from "./timeline.js";

/**
 * @typedef {object} MatrixEvent
 * @property {string} event_id
 * @property {string} type
 * @property {string} room_id
 * @property {string} user_id who has sent it
 * @property {object} content
 * @property {number} origin_server_ts
 * @property {string} [state_key]
 * @property {object} [prev_content]
 * @property {string} [redacts]
 * @property {object} [redacted_because]
 * @property {number} [required_power_level]
 */
/** @typedef {{presence: string, status: string, activeAt: ?number, name: ?string, avatar: ?string}} Person */

/** How many events of each room are asked for at the beginning. */
export const PAGE = 40;

export class Store extends EventTarget {
  /**
   * @param {string} userId
   * @param {import("./read_marks.js").ReadMarks} marks
   */
  constructor(userId, marks) {
    super();
    this.userId = userId;
    this.marks = marks;
    /** @type {Map<string, Room>} */
    this.rooms = new Map();
    /** @type {Map<string, Person>} */
    this.people = new Map();
    /** The room that is looked at, and whose news are read as they come. @type {?string} */
    this.openRoom = null;
    /** Finds out about rooms that have just been joined. @type {(room: string) => void} */
    this.onJoined = () => {};
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** The rooms as they are listed: invitations first, then by what happened last. */
  get listed() {
    return [...this.rooms.values()].sort(
      (a, b) => Number(b.membership === "invite") - Number(a.membership === "invite") || b.lastActive - a.lastActive,
    );
  }

  get totalUnread() {
    return [...this.rooms.values()].reduce((sum, room) => sum + (room.membership === "invite" ? 1 : room.unread), 0);
  }

  /** @returns {Room} */
  #room(id) {
    let room = this.rooms.get(id);
    if (!room) {
      room = new Room(id, this.userId);
      this.rooms.set(id, room);
    }
    return room;
  }

  // What the server tells.

  /** Begin anew with a whole snapshot. What has been sent and not come back stays. */
  reset(snapshot) {
    const ids = new Set(snapshot.rooms.map((room) => room.room_id));
    for (const id of this.rooms.keys()) if (!ids.has(id)) this.rooms.delete(id);
    for (const told of snapshot.rooms) {
      if (told.membership === "invite") this.#invited(told.room_id, told.inviter, Date.now());
      else this.load(told);
    }
    this.marks.keepOnly(ids);
    this.people.clear();
    snapshot.presence.forEach((event) => this.#presence(event));
    this.#tell("rooms");
    this.#tell("people");
  }

  /** A whole room, as of now. */
  load(told) {
    const room = this.#room(told.room_id);
    room.membership = "join";
    room.inviter = null;
    room.isPublic = told.visibility === "public";
    room.resetState(told.state);
    room.timeline.reset(told.messages);
    room.echoes = room.echoes.filter((echo) => !echo.eventId);
    const held = room.held ?? [];
    room.held = null;
    const events = room.timeline.events;
    room.last = events.findLast(isNews) ?? null;
    room.lastActive = timeOf(room.last ?? events.at(-1));
    if (!this.marks.get(room.id) && events.length) this.marks.set(room.id, events.at(-1));
    const unseen = this.marks.after(room.id, events);
    const spoken = unseen.findLastIndex((event) => this.#isOwn(event));
    // Who has spoken, elsewhere, has read what was said before.
    if (spoken >= 0) this.marks.set(room.id, unseen[spoken]);
    room.unread = unseen.slice(spoken + 1).filter((event) => this.#isUnread(event)).length;
    held.forEach(([event, before]) => this.#event(event, before));
    for (const event of told.presence ?? []) this.#presence(event);
    this.#tell("room", room.id);
    this.#tell("rooms");
  }

  /** A piece of the event stream. */
  apply(chunk) {
    for (const event of chunk.chunk) {
      if (event.type === "m.presence") this.#presence(event);
      else if (event.type === "m.typing") this.#typing(event);
      else if (event.room_id) this.#event(event, chunk.start);
    }
    if (chunk.chunk.some((event) => event.type === "m.presence")) this.#tell("people");
    if (chunk.chunk.some((event) => event.room_id && event.type !== "m.typing")) this.#tell("rooms");
  }

  #presence({ content }) {
    this.people.set(content.user_id, {
      presence: content.presence,
      status: typeof content.status_msg === "string" ? content.status_msg : "",
      activeAt: typeof content.last_active_ago === "number" ? Date.now() - content.last_active_ago : null,
      name: content.displayname ?? null,
      avatar: content.avatar_url ?? null,
    });
  }

  /** What is known of somebody's presence. Of oneself the stream does not tell: who looks is there. @returns {?Person} */
  person(user) {
    const own = { presence: "online", status: "", activeAt: null, name: null, avatar: null };
    return this.people.get(user) ?? (user === this.userId ? own : null);
  }

  /** The user has just chosen how others see them; what the stream tells of oneself comes later, if at all. */
  setOwnPresence(presence, status) {
    this.people.set(this.userId, { ...this.person(this.userId), presence, status });
    this.#tell("people");
  }

  #typing({ room_id, content }) {
    const room = this.rooms.get(room_id);
    if (!room) return;
    room.typing = content.user_ids.filter((user) => user !== this.userId);
    this.#tell("room", room_id);
  }

  #event(event, before) {
    const isOwnMembership = event.type === "m.room.member" && event.state_key === this.userId;
    if (isOwnMembership && this.#ownMembership(event)) return;
    const room = this.rooms.get(event.room_id);
    if (!room || room.membership !== "join") return;
    if (room.held) {
      room.held.push([event, before]);
      return;
    }
    if (room.timeline.has(event.event_id)) return;
    if (event.state_key !== undefined) room.setState(event);
    if (event.redacts) this.#redacted(room, event);
    room.timeline.append(event, before);
    this.#settleEcho(room, event);
    if (isNews(event)) {
      room.last = event;
      room.lastActive = Math.max(room.lastActive, timeOf(event));
    }
    if (this.#isOwn(event)) {
      this.marks.set(room.id, event);
      room.unread = 0;
    } else if (this.#isUnread(event)) {
      room.unread += 1;
      this.#tell("message", event);
    }
    room.typing = room.typing.filter((user) => user !== event.user_id || event.type !== "m.room.message");
    this.#tell("room", room.id);
  }

  /** @returns {boolean} whether that is all there is to do about it */
  #ownMembership(event) {
    const { membership } = event.content;
    const known = this.rooms.get(event.room_id);
    if (membership === "invite") {
      if (known?.membership !== "join") this.#invited(event.room_id, event.user_id, timeOf(event));
      return true;
    }
    if (membership === "join") {
      if (known?.membership === "join") return false;
      const room = this.#room(event.room_id);
      room.membership = "join";
      room.lastActive = timeOf(event);
      this.expectLoad(room.id);
      this.onJoined(room.id);
      return true;
    }
    if (known) {
      this.forget(event.room_id);
      if (event.user_id !== this.userId) this.#tell("removed", { room: known, event });
    }
    return true;
  }

  /** Hold back the news of a room until `load` is called. */
  expectLoad(roomId) {
    const room = this.#room(roomId);
    room.held ??= [];
  }

  #invited(id, inviter, ts) {
    const room = this.#room(id);
    room.membership = "invite";
    room.inviter = inviter;
    room.lastActive = ts;
    this.#tell("rooms");
  }

  /** The user is no longer in a room. */
  forget(id) {
    if (this.rooms.delete(id)) {
      this.#tell("room", id);
      this.#tell("rooms");
    }
  }

  #redacted(room, event) {
    room.timeline.redact(event.redacts, event);
    room.redactState(event.redacts, event);
    if (room.last?.event_id === event.redacts) room.last = room.timeline.events.findLast(isNews) ?? null;
  }

  // What we send ourselves.

  /** @param {import("./outbox.js").Echo} echo */
  addEcho(roomId, echo) {
    const room = this.rooms.get(roomId);
    if (!room) return;
    room.echoes.push(echo);
    room.lastActive = Math.max(room.lastActive, echo.ts);
    this.#tell("room", roomId);
    this.#tell("rooms");
  }

  /** Something about an echo has changed: it was sent, or was not. */
  echoChanged(roomId, echo) {
    const room = this.rooms.get(roomId);
    if (!room) return;
    if (echo.eventId && room.timeline.has(echo.eventId)) {
      this.dropEcho(roomId, echo);
      return;
    }
    if (echo.eventId) echo.isHidden = false;
    this.#tell("room", roomId);
  }

  dropEcho(roomId, echo) {
    const room = this.rooms.get(roomId);
    if (!room) return;
    room.echoes = room.echoes.filter((other) => other !== echo);
    this.#tell("room", roomId);
  }

  /** The stream has told of something that we have sent, maybe before the answer to it came. */
  #settleEcho(room, event) {
    if (event.user_id !== this.userId) return;
    const content = inOrder(event.content);
    const known = room.echoes.find((echo) => echo.eventId === event.event_id);
    if (known) {
      room.echoes = room.echoes.filter((echo) => echo !== known);
      return;
    }
    // It is most likely this one, and is not shown twice; whether it is the answer says.
    const likely = room.echoes.find(
      (echo) => echo.isUnderWay && !echo.eventId && !echo.isHidden && inOrder(echo.content) === content,
    );
    if (likely) likely.isHidden = true;
  }

  // What is read.

  #isOwn(event) {
    return event.type === "m.room.message" && event.user_id === this.userId;
  }

  #isUnread(event) {
    return isNews(event) && event.user_id !== this.userId;
  }

  /** The user has seen everything in a room. */
  markRead(roomId) {
    const room = this.rooms.get(roomId);
    const last = room?.timeline.last;
    if (!last || !room.timeline.isLive) return;
    this.marks.set(roomId, last);
    if (room.unread) {
      room.unread = 0;
      this.#tell("rooms");
    }
  }

  /** The user looks at a room, or at none. What is far away in the one before is let go. */
  open(roomId) {
    const before = this.rooms.get(this.openRoom);
    if (before && before.id !== roomId) before.timeline.shrink(MOST_IN_BACKGROUND);
    this.openRoom = roomId;
  }

  /** The events of a room page back. */
  prepend(roomId, page) {
    const room = this.rooms.get(roomId);
    if (!room) return;
    room.timeline.prepend(page.chunk, page.end);
    this.#tell("room", roomId);
  }
}

/** When something happened: not later than now, whatever its server says, so that no room stays on top for ever. */
function timeOf(event) {
  return Math.min(event?.origin_server_ts ?? Infinity, Date.now());
}

/** A content as text, the same in whatever order its keys come. */
function inOrder(content) {
  const sorted = (_, value) =>
    value && typeof value === "object" && !Array.isArray(value)
      ? Object.fromEntries(Object.entries(value).sort())
      : value;
  return JSON.stringify(content, sorted);
}

/** What brings a room up in the list. */
function isNews(event) {
  return event.type === "m.room.message" && !event.redacted_because;
}
