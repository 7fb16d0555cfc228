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

-- Changes of membership that stand in their rooms, and that those whose membership they change are not told of: invites, and what ends them.
CREATE TABLE hidden_memberships (
    event_nid BIGINT PRIMARY KEY
);
