-- Where several processes share the database: what each commit changed, for the others (shared/commit_log.py).

CREATE TABLE commits (
    number BIGINT PRIMARY KEY,
    maker TEXT NOT NULL,
    -- The rooms and the kinds of copies that others know wrongly from then on.
    rooms TEXT NOT NULL,
    kinds TEXT NOT NULL,
    news TEXT NOT NULL,
    made_at BIGINT NOT NULL
);
CREATE INDEX commits_made_at ON commits (made_at);

INSERT INTO stream_positions (stream, position) VALUES ('commits', 0) ON CONFLICT (stream) DO NOTHING;
