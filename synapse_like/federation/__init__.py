"""Speaking to other servers: finding them, reaching them, knowing their keys."""
