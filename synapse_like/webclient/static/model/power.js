/**
 * Who may do what in a room.
 *
 * There are two ways in which rooms say it: those of 2014 by one event for each kind of level, later ones by
 * m.room.power_levels alone. What they say means the same. The server decides; here it is only known what need not be
 * offered.
 */

const RULE_LEVEL = 50;
const ABOVE_ALL = Number.MAX_SAFE_INTEGER;

/** @typedef {import("./room.js").Room} Room */

export class Power {
  /** @param {Room} room */
  constructor(room) {
    this.room = room;
    this.levels = room.content("m.room.power_levels");
    const create = room.content("m.room.create") ?? {};
    const version = create.room_version ?? "spec-2014";
    this.isOf2014 = version === "spec-2014";
    /** Users who stand above all levels. */
    this.creators = new Set();
    if (Number(version) >= 12) {
      const others = Array.isArray(create.additional_creators) ? create.additional_creators : [];
      this.creators = new Set([room.state("m.room.create")?.user_id, ...others]);
    }
    this.creator = create.creator ?? room.state("m.room.create")?.user_id;
  }

  /** @returns {number} the level of a user */
  of(user) {
    if (this.creators.has(user)) return ABOVE_ALL;
    if (!this.levels) return user === this.creator ? 100 : 0;
    const given = this.isOf2014 ? this.levels : (this.levels.users ?? {});
    const usual = this.isOf2014 ? this.levels.default : this.levels.users_default;
    return Number(Object.hasOwn(given, user) ? given[user] : (usual ?? 0)) || 0;
  }

  /** @param {"ban"|"kick"|"redact"} action */
  #needed(action) {
    const found = this.isOf2014 ? this.room.content("m.room.ops_levels")?.[`${action}_level`] : this.levels?.[action];
    return Number(found ?? 50);
  }

  /** May one user kick or ban another? */
  mayRemove(user, action, target) {
    return user !== target && this.of(user) >= this.#needed(action) && this.of(user) > this.of(target);
  }

  mayUnban(user) {
    return this.of(user) >= this.#needed("ban");
  }

  mayInvite(user) {
    return this.of(user) >= (this.isOf2014 ? 0 : Number(this.levels?.invite ?? 0));
  }

  mayRedact(user, event) {
    return event.user_id === user || this.of(user) >= this.#needed("redact");
  }

  maySpeak(user) {
    if (this.isOf2014) return this.of(user) >= Number(this.room.content("m.room.send_event_level")?.level ?? 50);
    return this.of(user) >= Number(this.levels?.events?.["m.room.message"] ?? this.levels?.events_default ?? 0);
  }

  maySet(user, type) {
    return this.of(user) >= this.#neededFor(type);
  }

  #neededFor(type) {
    if (!this.isOf2014) return Number(this.levels?.events?.[type] ?? this.levels?.state_default ?? 50);
    const replaced = this.room.state(type);
    const needed = replaced
      ? (replaced.required_power_level ?? 0)
      : Number(this.room.content("m.room.add_state_level")?.level ?? 50);
    return type === "m.room.power_levels" ? Math.max(RULE_LEVEL, needed) : needed;
  }

  /** May one user change the level of another at all? */
  mayChangeLevel(user, target) {
    if (!this.maySet(user, "m.room.power_levels") || this.creators.has(target)) return false;
    return user === target || this.of(user) > this.of(target);
  }

  /** The content of m.room.power_levels by which a user has another level. */
  withLevel(user, level) {
    const levels = this.levels ?? (this.isOf2014 ? { [this.creator]: 100 } : { users: { [this.creator]: 100 } });
    return this.isOf2014 ? { ...levels, [user]: level } : { ...levels, users: { ...levels.users, [user]: level } };
  }

  /** What a level is called; nothing for that of most people. */
  static title(level) {
    if (level >= ABOVE_ALL) return "Creator";
    return { 100: "Admin", 50: "Moderator", 0: "" }[level] ?? `Level ${level}`;
  }
}
