"""What the tests share: a PostgreSQL of their own, whole servers, and a client."""
