-- The keys of other servers. `valid_until` is when a key stops (or has stopped, if it `is_old`) to vouch for events.
-- `relayed_by` is the server that told us, if it was not the key's own; '' if it was.
CREATE TABLE server_keys (
    server_name TEXT NOT NULL,
    key_id TEXT NOT NULL,
    verify_key BYTES NOT NULL,
    valid_until BIGINT NOT NULL,
    is_old BIGINT NOT NULL,
    relayed_by TEXT NOT NULL,
    fetched_at BIGINT NOT NULL,
    PRIMARY KEY (server_name, key_id)
) WITHOUT ROWID;

-- The newest answer of each server about its own keys, as it was signed by it, to be passed on.
CREATE TABLE server_key_answers (
    server_name TEXT PRIMARY KEY,
    answer TEXT NOT NULL,
    valid_until BIGINT NOT NULL,
    fetched_at BIGINT NOT NULL
);
