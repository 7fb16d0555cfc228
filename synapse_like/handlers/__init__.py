"""What the server does, one subject a file; each knows the floors below it and none of the others' insides.

A handler takes and gives values of the protocol and of storage; how they look on the wire is the business of `http`.
"""
