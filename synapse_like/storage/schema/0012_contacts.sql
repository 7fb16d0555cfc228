-- The address books of our users. `body`: the contact as a JSON object, as its user sees it.
CREATE TABLE contacts (
    user_id TEXT NOT NULL REFERENCES users (user_id),
    contact_id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (user_id, contact_id)
) WITHOUT ROWID;

-- By what a contact is known: `email:…`, `msisdn:…`, `user:…`, `name:…`.
CREATE TABLE contact_keys (
    user_id TEXT NOT NULL,
    lookup_key TEXT NOT NULL,
    contact_id TEXT NOT NULL,
    PRIMARY KEY (user_id, lookup_key, contact_id)
) WITHOUT ROWID;

-- What identity servers have said of addresses lately. `lookup_key` as above; `owner`: the user who has it, or NULL; `asked_at` in ms.
CREATE TABLE address_owners (
    lookup_key TEXT PRIMARY KEY,
    owner TEXT,
    asked_at BIGINT NOT NULL
);

CREATE INDEX address_owners_age ON address_owners (asked_at);
