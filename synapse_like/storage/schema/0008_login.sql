-- An account that is closed for good keeps its name, so that nobody else gets it.
ALTER TABLE users ADD COLUMN deactivated_at BIGINT;

-- A registration or login under way. Sessions of the older form are dropped: they would have expired within the hour.
-- `user_id` is whom it is for, once a stage has said so. `facts` holds what each stage done has found out; `state` what
-- the one under way (`stage`) must remember, and `ticket_hash` the secret that takes part in it from elsewhere.
-- `revision` makes every step happen once.
DROP TABLE login_sessions;

CREATE TABLE login_sessions (
    session_hash BYTES PRIMARY KEY,
    purpose TEXT NOT NULL,
    user_id TEXT,
    completed TEXT NOT NULL,
    facts TEXT NOT NULL,
    stage TEXT,
    state TEXT NOT NULL,
    ticket_hash BYTES UNIQUE,
    tries BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX login_sessions_expiry ON login_sessions (expires_at);

-- E-mail addresses that were proven to be those of an account's owner. An address belongs to one account.
CREATE TABLE account_addresses (
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (user_id),
    validated_at BIGINT NOT NULL,
    PRIMARY KEY (medium, address)
) WITHOUT ROWID;

CREATE INDEX account_addresses_user ON account_addresses (user_id);

-- Links sent by mail, outside of a login: each is good once, for one thing (`purpose`).
CREATE TABLE mail_links (
    link_hash BYTES PRIMARY KEY,
    purpose TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (user_id),
    address TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE INDEX mail_links_user ON mail_links (user_id);
CREATE INDEX mail_links_expiry ON mail_links (expires_at);

-- Sessions of identity servers by which somebody has registered or logged in here: none is good twice.
CREATE TABLE identity_sessions (
    server TEXT NOT NULL,
    sid TEXT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (server, sid)
) WITHOUT ROWID;

CREATE INDEX identity_sessions_age ON identity_sessions (used_at);

-- Addresses that identity servers are still to be told whose they are, and when they are told next.
CREATE TABLE identity_bindings (
    binding_id AUTO_KEY,
    server TEXT NOT NULL,
    sid TEXT NOT NULL,
    client_secret TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (user_id),
    failures BIGINT NOT NULL,
    due_at BIGINT NOT NULL
);

CREATE INDEX identity_bindings_due ON identity_bindings (due_at);
