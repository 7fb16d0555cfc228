-- Sending to other servers. What waits for a server is not in a table of its own: it is what `events.is_outgoing` and the
-- stays in `room_servers` say. `sent_up_to` is the position of the stream of events up to which a server has all of it.
-- While it cannot be reached, `failing_since` says since when (ms), `retry_at` when it is tried again (ms), `retry_interval`
-- how long was waited last (ms). `retry_asked`: an operator wants it tried now, and the running server has not seen that yet.
CREATE TABLE destinations (
    server TEXT PRIMARY KEY,
    sent_up_to BIGINT NOT NULL,
    last_transaction TEXT,
    failing_since BIGINT,
    retry_at BIGINT,
    retry_interval BIGINT NOT NULL,
    last_error TEXT,
    retry_asked BIGINT NOT NULL DEFAULT 0
);

-- What is not an event but must arrive all the same. `position` is one of a stream of their own. A newer one takes the place of one
-- that waits with the same `edu_key`.
CREATE TABLE outgoing_edus (
    position BIGINT PRIMARY KEY,
    server TEXT NOT NULL,
    edu_type TEXT NOT NULL,
    edu_key TEXT,
    edu BYTES NOT NULL
);

CREATE INDEX outgoing_edus_server ON outgoing_edus (server, position);
CREATE INDEX outgoing_edus_key ON outgoing_edus (server, edu_type, edu_key) WHERE edu_key IS NOT NULL;

INSERT INTO stream_positions (stream, position) VALUES ('outgoing_edus', 0) ON CONFLICT (stream) DO NOTHING;
