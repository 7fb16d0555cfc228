-- Users who have asked to be forgotten: they are to leave their rooms, which the running server does.
ALTER TABLE users ADD COLUMN erased_at BIGINT;

CREATE INDEX users_erased ON users (user_id) WHERE erased_at IS NOT NULL;
