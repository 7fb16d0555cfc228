"""The identity server: whose an e-mail address or a phone number is (ID-1).

It stands alone, with a database and a key of its own, or beside a home server in the same process; either way it knows
nothing of rooms. What it needs of the world (mail, text messages, other servers) it is handed.

settings       its settings
signer         its key, and what is made with it
validations    seeing that somebody has an address
associations   whose an address is: bind, unbind, look up, also by hashes
user_keys      the public keys of those who have addresses
invites        invites to rooms for addresses that are nobody's yet
notices        telling home servers when they become somebody's
text_messages  by way of a gateway
replication    telling siblings what we know, and hearing what they know
asking         other servers, by what is handed in
deliveries     how somebody is told something though they may be away
peers          whose request it is: siblings and home servers sign theirs
endpoints, v1    `/_matrix/identity/api/v1`
"""
