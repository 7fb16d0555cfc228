"""Identity servers in processes of their own, with a real mail server."""
