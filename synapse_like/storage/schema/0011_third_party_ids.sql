-- Addresses that users have linked to themselves: identity servers tell others whose they are. They are not for logging in.
-- `id_server` is the URL of the identity server, `id_name` the name by which it signs.
CREATE TABLE linked_addresses (
    medium TEXT NOT NULL,
    address TEXT NOT NULL,
    user_id TEXT NOT NULL REFERENCES users (user_id),
    id_server TEXT NOT NULL,
    id_name TEXT NOT NULL,
    validated_at BIGINT NOT NULL,
    PRIMARY KEY (medium, address, user_id, id_server)
) WITHOUT ROWID;

CREATE INDEX linked_addresses_user ON linked_addresses (user_id);

-- Invites that our users have sent to addresses that were nobody's. `public_keys`: a JSON list, of the keys by one of which the identity
-- server signs who the address turned out to be. `redeemed_by`: the user who was invited for it, so that it is good only once.
CREATE TABLE address_invites (
    token TEXT NOT NULL,
    room_id TEXT NOT NULL,
    sender TEXT NOT NULL,
    public_keys TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    redeemed_by TEXT,
    PRIMARY KEY (token, room_id)
);

CREATE INDEX address_invites_room ON address_invites (room_id);
CREATE INDEX address_invites_age ON address_invites (created_at);
