-- Files: those that our users have uploaded (`server` is empty) and copies of those of other servers. The bytes lie in files named by the hash.
-- `created_at`, `last_used`: in ms; the second is kept for copies only.
CREATE TABLE content_by_server (
    server TEXT NOT NULL,
    content_id TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    mimetype TEXT NOT NULL,
    filename TEXT,
    user_id TEXT REFERENCES users (user_id),
    created_at BIGINT NOT NULL,
    last_used BIGINT NOT NULL,
    PRIMARY KEY (server, content_id)
);

INSERT INTO content_by_server (server, content_id, sha256, size, mimetype, user_id, created_at, last_used)
SELECT '', content_id, sha256, size, mimetype, user_id, created_at, created_at FROM content;

DROP TABLE content;

ALTER TABLE content_by_server RENAME TO content;

CREATE INDEX content_sha256 ON content (sha256);
CREATE INDEX content_user ON content (user_id);
CREATE INDEX content_last_used ON content (last_used) WHERE server <> '';

-- Smaller pictures of those files, by the hash of the picture they are of. `sha256` is that of their own bytes.
CREATE TABLE content_thumbnails (
    source TEXT NOT NULL,
    width BIGINT NOT NULL,
    height BIGINT NOT NULL,
    method TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    mimetype TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (source, width, height, method)
);

CREATE INDEX content_thumbnails_sha256 ON content_thumbnails (sha256);
