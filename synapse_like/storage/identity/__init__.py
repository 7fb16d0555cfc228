"""All the SQL of the identity server, whose database is its own (ID-1)."""
