-- Rooms that live on many servers.

-- `place` is where an event stands in the timeline of its room: its position in the stream of events times 2^20. The
-- places between are for older events that are fetched later. `standing`: 0 accepted, 1 soft-failed (kept, but not
-- shown), 2 rejected. An event without snapshots is an outlier: known, but without a place in history.
-- `is_outgoing`: this server sees to it that the other servers in the room get the event.
ALTER TABLE events RENAME COLUMN position TO place;
UPDATE events SET place = place * 1048576 WHERE place IS NOT NULL;
ALTER TABLE events ADD COLUMN standing BIGINT NOT NULL DEFAULT 0;
ALTER TABLE events ADD COLUMN is_outgoing BIGINT NOT NULL DEFAULT 0;

CREATE INDEX events_outgoing ON events (room_nid, place) WHERE is_outgoing = 1;

-- Events that name one before them which is not here: where history has a gap.
CREATE TABLE gaps (
    room_nid BIGINT NOT NULL REFERENCES rooms (room_nid),
    event_nid BIGINT NOT NULL REFERENCES events (event_nid),
    missing TEXT NOT NULL,
    PRIMARY KEY (room_nid, event_nid, missing)
) WITHOUT ROWID;

CREATE INDEX gaps_event ON gaps (event_nid);

-- Redactions of events that are not here yet.
CREATE TABLE redactions_ahead (
    target TEXT NOT NULL,
    event_nid BIGINT NOT NULL REFERENCES events (event_nid),
    PRIMARY KEY (target, event_nid)
) WITHOUT ROWID;

CREATE INDEX redactions_ahead_event ON redactions_ahead (event_nid);

-- Which other servers were in which room, and from which position of the stream of events until which they get what is sent
-- there (`until` included; null while they are in it). `joined` is the number of their joined users.
CREATE TABLE room_servers (
    room_nid BIGINT NOT NULL REFERENCES rooms (room_nid),
    server TEXT NOT NULL,
    since BIGINT NOT NULL,
    until BIGINT,
    joined BIGINT NOT NULL,
    PRIMARY KEY (room_nid, server, since)
) WITHOUT ROWID;

CREATE INDEX room_servers_server ON room_servers (server, room_nid);

-- Invites and knocks of our users in rooms that this server is not in: whom to ask, and what they are shown of the room (JSON).
CREATE TABLE outside_memberships (
    room_nid BIGINT NOT NULL REFERENCES rooms (room_nid),
    user_id TEXT NOT NULL,
    event_nid BIGINT NOT NULL REFERENCES events (event_nid),
    server TEXT NOT NULL,
    shown TEXT NOT NULL,
    PRIMARY KEY (room_nid, user_id)
) WITHOUT ROWID;

-- What other servers have sent, and what they were answered; a transaction is done once.
CREATE TABLE received_transactions (
    origin TEXT NOT NULL,
    transaction_id TEXT NOT NULL,
    answer TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (origin, transaction_id)
) WITHOUT ROWID;

CREATE INDEX received_transactions_age ON received_transactions (received_at);

-- Events that were taken over from their sender, but are not in their room yet: something is missing.
CREATE TABLE waiting_pdus (
    waiting_nid AUTO_KEY,
    origin TEXT NOT NULL,
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL UNIQUE,
    pdu BYTES NOT NULL,
    received_at BIGINT NOT NULL
);
