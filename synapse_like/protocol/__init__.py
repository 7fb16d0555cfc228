"""What Matrix is, without a server around it: values in, values out.

Nothing in this package knows the time, throws dice, reads a file, speaks to a network or awaits anything.
What it needs of these is given to it as an argument. Every refusal is a `MatrixError`.

    errors           the one family of refusals
    identifiers      user IDs, aliases, room IDs, event IDs, server names
    canonical_json   the one way to write a value as bytes
    room_versions    which rules hold in which room
    events           the neutral event that the rest of the program speaks of
    wire_formats, pdu_id_pairs, pdu_ids     events as they travel between servers, and back
    hashes, redaction, signing, building    from a draft to a finished event, and what may be taken from it
    shapes, contents                        what known kinds of events must look like
    power_levels, membership, join_rules, third_party_invites, authorisation    who may do what
    third_party_ids  e-mail addresses and phone numbers, and whose they are
    visibility       who may see what was said
    room_creation    what a room begins with
    state_resolution, state_conflicts, resolution_by_depth, resolution_by_power    one state out of several
"""
