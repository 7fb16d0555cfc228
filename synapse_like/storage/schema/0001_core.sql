-- Accounts.

CREATE TABLE users (
    user_id TEXT PRIMARY KEY,
    password_hash TEXT,
    is_admin BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);

CREATE TABLE access_tokens (
    token_id LASTING_KEY,
    token_hash BYTES NOT NULL UNIQUE,
    user_id TEXT NOT NULL REFERENCES users (user_id),
    created_at BIGINT NOT NULL
);

CREATE INDEX access_tokens_user ON access_tokens (user_id);

-- A registration or login under way: what it has proven so far. `revision` makes every step happen once.
CREATE TABLE login_sessions (
    session_hash BYTES PRIMARY KEY,
    purpose TEXT NOT NULL,
    completed TEXT NOT NULL,
    facts TEXT NOT NULL,
    revision BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX login_sessions_expiry ON login_sessions (expires_at);

-- The first answer to each idempotent request, given again to a retransmit.
CREATE TABLE retransmissions (
    token_id BIGINT NOT NULL REFERENCES access_tokens (token_id) ON DELETE CASCADE,
    request_hash BYTES NOT NULL,
    result TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (token_id, request_hash)
) WITHOUT ROWID;

CREATE INDEX retransmissions_age ON retransmissions (created_at);

-- Rooms and the events in them.

CREATE TABLE rooms (
    room_nid LASTING_KEY,
    room_id TEXT NOT NULL UNIQUE,
    version TEXT NOT NULL,
    is_public BIGINT NOT NULL DEFAULT 0
);

CREATE INDEX rooms_public ON rooms (room_nid) WHERE is_public = 1;

-- Where a room stands: its newest events (forward extremities, a JSON list of event_nids) and the state after them.
CREATE TABLE room_heads (
    room_nid BIGINT PRIMARY KEY REFERENCES rooms (room_nid),
    extremities TEXT NOT NULL,
    snapshot_id BIGINT NOT NULL
);

-- `position` is the place in the stream of events, `replaces` the state event that this one replaced. `pdu` is the event as signed (its redacted form once redacted).
CREATE TABLE events (
    event_nid AUTO_KEY,
    event_id TEXT NOT NULL UNIQUE,
    room_nid BIGINT NOT NULL REFERENCES rooms (room_nid),
    position BIGINT,
    snapshot_before BIGINT,
    snapshot_after BIGINT,
    replaces BIGINT,
    redacted_by BIGINT,
    pdu BYTES NOT NULL
);

CREATE INDEX events_timeline ON events (room_nid, position) WHERE position IS NOT NULL;

-- Each (type, state key) ever used, by a short number.
CREATE TABLE state_slots (
    slot_id AUTO_KEY,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    UNIQUE (type, state_key)
);

-- A state of a room, kept as what differs from its parent; `height` is the number of snapshots below it.
CREATE TABLE state_snapshots (
    snapshot_id AUTO_KEY,
    room_nid BIGINT NOT NULL REFERENCES rooms (room_nid),
    parent_id BIGINT,
    height BIGINT NOT NULL
);

CREATE INDEX state_snapshots_room ON state_snapshots (room_nid);

-- An entry without an event takes away what the parent had.
CREATE TABLE state_deltas (
    snapshot_id BIGINT NOT NULL REFERENCES state_snapshots (snapshot_id),
    slot_id BIGINT NOT NULL,
    event_nid BIGINT,
    PRIMARY KEY (snapshot_id, slot_id)
) WITHOUT ROWID;

-- The state at each room's head, with the membership spelt out for m.room.member.
CREATE TABLE current_state (
    room_nid BIGINT NOT NULL REFERENCES rooms (room_nid),
    slot_id BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    membership TEXT,
    PRIMARY KEY (room_nid, slot_id)
) WITHOUT ROWID;

CREATE INDEX current_state_members ON current_state (room_nid, membership) WHERE membership IS NOT NULL;
CREATE INDEX current_state_rooms ON current_state (slot_id) WHERE membership IS NOT NULL;

-- Every change of membership of this server's own users, in stream order: when they came, when they went.
CREATE TABLE membership_changes (
    slot_id BIGINT NOT NULL,
    position BIGINT NOT NULL,
    room_nid BIGINT NOT NULL REFERENCES rooms (room_nid),
    event_nid BIGINT NOT NULL,
    membership TEXT NOT NULL,
    PRIMARY KEY (slot_id, position)
) WITHOUT ROWID;

CREATE INDEX membership_changes_room ON membership_changes (room_nid);

CREATE TABLE room_aliases (
    alias TEXT PRIMARY KEY,
    room_nid BIGINT NOT NULL REFERENCES rooms (room_nid),
    creator TEXT NOT NULL
);

CREATE INDEX room_aliases_room ON room_aliases (room_nid);

INSERT INTO stream_positions (stream, position) VALUES ('events', 0) ON CONFLICT (stream) DO NOTHING;

-- Files that users have uploaded; the bytes lie in files named by the hash.
CREATE TABLE content (
    content_id TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    mimetype TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (user_id),
    created_at BIGINT NOT NULL
);
