-- What users of this server tell of themselves, each `value` in JSON; display name and avatar are among it.
CREATE TABLE profile_fields (
    user_id TEXT NOT NULL REFERENCES users (user_id),
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    visibility TEXT NOT NULL,
    PRIMARY KEY (user_id, field)
) WITHOUT ROWID;

-- Users who have another name or avatar, of which some of their rooms have not been told. The rooms are told in the order of
-- their `room_nid`; `told_up_to` is that of the last one.
CREATE TABLE untold_profiles (
    user_id TEXT PRIMARY KEY REFERENCES users (user_id),
    told_up_to BIGINT NOT NULL
);
