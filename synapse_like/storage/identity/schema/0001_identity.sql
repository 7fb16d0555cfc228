-- What the server says of itself: `log` names the stream in which it tells its siblings what it knows.
CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

INSERT INTO stream_positions (stream, position) VALUES ('statements', 0) ON CONFLICT (stream) DO NOTHING;

-- Addresses whose owner is to prove that they have it. `secret_hash`: of what the client chose. `tries`: wrong tokens that were
-- submitted. Times are in ms.
CREATE TABLE validations (
    sid TEXT PRIMARY KEY,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    secret_hash BYTES NOT NULL,
    send_attempt BIGINT NOT NULL,
    next_link TEXT,
    tries BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    validated_at BIGINT
);

CREATE UNIQUE INDEX validations_of ON validations (medium, address, secret_hash);
CREATE INDEX validations_age ON validations (created_at);

-- What identity servers say of addresses: `kind` association (whose it is; `mxid` NULL: nobody's any more) or keys (the keys of whose
-- it is). Each server's newest word stays; the one with the largest `ts` (then `origin`) holds. `statement`: JSON; of other servers as
-- they have signed it. `position`: of our own, where they stand in what siblings are told.
CREATE TABLE statements (
    kind TEXT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    origin TEXT NOT NULL,
    mxid TEXT,
    ts BIGINT NOT NULL,
    position BIGINT,
    statement TEXT NOT NULL,
    PRIMARY KEY (kind, medium, address, origin)
);

CREATE UNIQUE INDEX statements_position ON statements (position) WHERE position IS NOT NULL;
CREATE INDEX statements_mxid ON statements (kind, mxid) WHERE mxid IS NOT NULL;

-- What addresses are hashed with to be looked up. `filled_medium`, `filled_address`: how far the hashes of it are made; NULL `done_at`:
-- not to the end yet.
CREATE TABLE peppers (
    pepper TEXT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    done_at BIGINT,
    filled_medium TEXT NOT NULL,
    filled_address TEXT NOT NULL
);

CREATE TABLE lookup_hashes (
    pepper TEXT NOT NULL,
    hash TEXT NOT NULL,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    PRIMARY KEY (pepper, hash)
) WITHOUT ROWID;

-- Invites to rooms for addresses that were nobody's. The key pair is the invite's own: `private_key` signs for whoever turns out to have
-- the address, and is gone once that is done (`redeemed_at`).
CREATE TABLE invites (
    token TEXT PRIMARY KEY,
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    room_id TEXT NOT NULL,
    sender TEXT NOT NULL,
    public_key TEXT NOT NULL,
    private_key BYTES,
    created_at BIGINT NOT NULL,
    redeemed_at BIGINT
);

CREATE INDEX invites_address ON invites (medium, address) WHERE redeemed_at IS NULL;
CREATE UNIQUE INDEX invites_key ON invites (public_key);
CREATE INDEX invites_age ON invites (created_at);

-- What home servers are to be told: that a user of theirs has an address to which there were invites.
CREATE TABLE notices (
    notice_id LASTING_KEY,
    server TEXT NOT NULL,
    notice TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX notices_server ON notices (server, notice_id);

-- Home servers (kind home) and siblings (kind sibling) that could not be reached, and since when (ms). Of siblings also: up to where in
-- our log they have everything.
CREATE TABLE destinations (
    kind TEXT NOT NULL,
    server TEXT NOT NULL,
    sent_up_to BIGINT NOT NULL,
    failing_since BIGINT,
    retry_at BIGINT,
    retry_interval BIGINT NOT NULL,
    last_error TEXT,
    PRIMARY KEY (kind, server)
);

-- Up to where we have what each sibling has told us, in which log of it.
CREATE TABLE heard (
    server TEXT PRIMARY KEY,
    log TEXT NOT NULL,
    position BIGINT NOT NULL
);
