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
