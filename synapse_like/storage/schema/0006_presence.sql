-- What is known of the presence of each user, of this server and of others. `state` is what they chose to be seen as, or are. `position` is
-- where in the stream of presence it was last told. `choices` (our users only): what their clients chose, a JSON object by token_id;
-- `is_hidden`: they want to be seen as offline. `last_active` is in ms.
CREATE TABLE presence (
    user_id TEXT PRIMARY KEY,
    position BIGINT NOT NULL,
    state TEXT NOT NULL,
    status_msg TEXT,
    last_active BIGINT,
    is_hidden BIGINT NOT NULL DEFAULT 0,
    choices TEXT NOT NULL DEFAULT '{}'
);

CREATE INDEX presence_position ON presence (position);
CREATE INDEX presence_there ON presence (user_id) WHERE state <> 'offline';

-- Who wants to see whom, where either is a user of this server; whether the observed allows it; `position`: in the stream of presence, of the
-- request or of its acceptance.
CREATE TABLE presence_lists (
    observer TEXT NOT NULL,
    observed TEXT NOT NULL,
    is_accepted BIGINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (observer, observed)
) WITHOUT ROWID;

CREATE INDEX presence_lists_observed ON presence_lists (observed, position);

-- The users of a presence list, sorted by their owner.
CREATE TABLE presence_groups (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    member TEXT NOT NULL,
    PRIMARY KEY (owner, name, member)
) WITHOUT ROWID;

-- Other servers that asked for the presence of our users, and until when (ms) they are told its changes.
CREATE TABLE presence_interest (
    user_id TEXT NOT NULL,
    server TEXT NOT NULL,
    until BIGINT NOT NULL,
    PRIMARY KEY (user_id, server)
) WITHOUT ROWID;

INSERT INTO stream_positions (stream, position) VALUES ('presence', 0) ON CONFLICT (stream) DO NOTHING;
