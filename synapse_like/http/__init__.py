"""What comes in: everything between a socket and an endpoint, and (in `client/`) the endpoints themselves.

`channel` reads requests off a connection and writes the answers back in order; `routing` says which endpoint a path
means; `requests` is what an endpoint is handed; `responses` is what goes back; `limits` counts how often; `site`
puts them together. None of these knows of rooms or users: who is asking and how often they may ask are constructor
arguments of the site.
"""
