-- Users of whom our users do not want to hear.
CREATE TABLE ignored_users (
    user_id TEXT NOT NULL REFERENCES users (user_id),
    ignored TEXT NOT NULL,
    PRIMARY KEY (user_id, ignored)
) WITHOUT ROWID;

-- Whose invites our users take: `shared_rooms`, `contacts` or `nobody`; everyone's where there is no row.
CREATE TABLE invite_policies (
    user_id TEXT PRIMARY KEY REFERENCES users (user_id),
    policy TEXT NOT NULL
);

-- Invites that stand in their rooms, and that those who were invited are not told of.
CREATE TABLE hidden_invites (
    event_nid BIGINT PRIMARY KEY
);
