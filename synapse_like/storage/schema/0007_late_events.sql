-- Events that come late.

-- What belongs before an event that is here already gets its place there, and a position of its own in the stream of
-- events. For all others `position` is null: their place says it.
ALTER TABLE events ADD COLUMN position BIGINT;

CREATE INDEX events_late ON events (room_nid, position) WHERE position IS NOT NULL;

-- Is what a gap lacks news, or history from before this server came into the room?
ALTER TABLE gaps ADD COLUMN is_news BIGINT NOT NULL DEFAULT 0;

-- The depth at which this server came into a room.
ALTER TABLE room_heads ADD COLUMN entered_depth BIGINT NOT NULL DEFAULT 0;
