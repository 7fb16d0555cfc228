-- Accounts at OAuth 2 providers by which people get into accounts here. Such an identity belongs to one account.
-- `provider` is what the settings call the provider, `subject` what the provider calls the person.
CREATE TABLE external_identities (
    provider TEXT NOT NULL,
    subject TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (user_id),
    linked_at BIGINT NOT NULL,
    PRIMARY KEY (provider, subject)
) WITHOUT ROWID;

CREATE INDEX external_identities_user ON external_identities (user_id);
