/** One room: its state, its people, its timeline, and how it is called. */

import { Power } from "./power.js";
import { redacted, Timeline } from "./timeline.js";

/** @typedef {import("./store.js").MatrixEvent} MatrixEvent */
/** @typedef {{user: string, membership: string, name: string, avatar: ?string}} Member */

export class Room {
  /** @type {Map<string, MatrixEvent>} */
  #state = new Map();
  /** @type {?Map<string, Member>} made when it is asked for, of the state */
  #members = null;
  /** How many in the room have the same name. @type {Map<string, number>} */
  #namesakes = new Map();
  #power = null;

  /**
   * @param {string} id
   * @param {string} userId who looks at it
   */
  constructor(id, userId) {
    this.id = id;
    this.userId = userId;
    /** @type {"join"|"invite"} */
    this.membership = "join";
    /** Who has invited us, if they have. */
    this.inviter = null;
    this.timeline = new Timeline();
    /** What we have sent and not seen come back. @type {import("./outbox.js").Echo[]} */
    this.echoes = [];
    /** The newest event that people would call news. @type {?MatrixEvent} */
    this.last = null;
    /** When that was; for rooms without any, when we came. */
    this.lastActive = 0;
    this.unread = 0;
    /** @type {string[]} */
    this.typing = [];
    /** News that came while the room was being loaded; null if it is not. @type {?[MatrixEvent, string][]} */
    this.held = null;
    this.isPublic = false;
  }

  /** @param {MatrixEvent} event */
  setState(event) {
    this.#state.set(`${event.type}\n${event.state_key}`, event);
    if (event.type === "m.room.member") this.#members = null;
    this.#power = null;
  }

  /** Take out of a piece of state what a redaction takes out. */
  redactState(eventId, because) {
    const event = [...this.#state.values()].find((each) => each.event_id === eventId);
    if (event) this.setState(redacted(event, because));
  }

  /** @param {MatrixEvent[]} events */
  resetState(events) {
    this.#state.clear();
    this.#members = null;
    events.forEach((event) => this.setState(event));
  }

  /** @returns {MatrixEvent|undefined} */
  state(type, key = "") {
    return this.#state.get(`${type}\n${key}`);
  }

  content(type, key = "") {
    return this.state(type, key)?.content;
  }

  /** @returns {Map<string, Member>} by user ID, with those who have left */
  get members() {
    if (!this.#members) {
      const found = [...this.#state.values()].filter((event) => event.type === "m.room.member");
      this.#members = new Map(found.map((event) => [event.state_key, memberOf(event)]));
      this.#namesakes.clear();
      for (const { name, membership } of this.#members.values()) {
        if (membership === "join") this.#namesakes.set(name, (this.#namesakes.get(name) ?? 0) + 1);
      }
    }
    return this.#members;
  }

  /** @returns {Power} */
  get power() {
    this.#power ??= new Power(this);
    return this.#power;
  }

  /** Those whose membership is one of some. */
  those(...memberships) {
    return [...this.members.values()].filter((member) => memberships.includes(member.membership));
  }

  /** How somebody is called here: by their ID, too, if others are called the same. */
  nameOf(user) {
    const member = this.members.get(user);
    const name = member?.name ?? localpart(user);
    const others = (this.#namesakes.get(name) ?? 0) - (member?.membership === "join" ? 1 : 0);
    return others > 0 ? `${name} (${user})` : name;
  }

  avatarOf(user) {
    return this.members.get(user)?.avatar ?? null;
  }

  get aliases() {
    const events = [...this.#state.values()].filter((event) => event.type === "m.room.aliases");
    return events.flatMap((event) => event.content.aliases ?? []).filter((alias) => typeof alias === "string");
  }

  get topic() {
    const topic = this.content("m.room.topic")?.topic;
    return typeof topic === "string" ? topic : "";
  }

  /** What the room is called: by its name, an alias, or who is in it. */
  get name() {
    const name = this.content("m.room.name")?.name;
    if (typeof name === "string" && name.trim()) return name;
    if (this.membership === "invite") return `Invitation from ${localpart(this.inviter ?? "")}`;
    if (this.aliases.length) return this.aliases[0];
    const others = this.those("join", "invite").filter((member) => member.user !== this.userId);
    const names = others.slice(0, 3).map((member) => member.name);
    if (others.length > 3) return `${names.join(", ")} and ${others.length - 3} more`;
    return names.length ? names.join(" and ") : "Nobody but you";
  }
}

/** @returns {Member} */
function memberOf(event) {
  const { membership, displayname, avatar_url } = event.content;
  return {
    user: event.state_key,
    membership,
    name: typeof displayname === "string" && displayname.trim() ? displayname : localpart(event.state_key),
    avatar: typeof avatar_url === "string" ? avatar_url : null,
  };
}

/** The first part of a user ID, without the "@". */
export function localpart(user) {
  return user.replace(/^@/, "").replace(/:.*/s, "");
}
