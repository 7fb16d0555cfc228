"""Three servers, people who talk on them, and everything that can happen to servers.

world    the servers and the people, and what must be so in the end: nothing is lost, nothing is there twice, anywhere
harms    what happens to the servers meanwhile, at random
"""
