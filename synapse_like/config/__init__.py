"""The settings of a server: one YAML file, read once at the start.

The models are the whole truth about a setting: its name, its type, its default and, in the text under it, its help.
From them come the checks, which report all faults at once, and the commented file that `init` writes. An unknown key is
a fault, since it is nearly always a known one, misspelt.

Relative paths are relative to the folder of the file. The environment may give the secrets.

home_server   all the settings of a home server; those that are few
entrance      how people register and log in
listeners     where a server is reached, and how it reaches others
limits        how much one may ask for
content       uploaded files
policy        who is asked whether something may be done
shared        what home servers and identity servers have in common
values        the kinds of values
reading       from a YAML file to settings, and back
writing       how settings stand in such a file
"""

from synapse_like.config.entrance import OAuth2Provider, PasswordHashing
from synapse_like.config.home_server import Config, load, parse, sample
from synapse_like.config.policy import PolicyHook, PolicyServer
from synapse_like.config.reading import ConfigError
from synapse_like.config.shared import MailHandOver

__all__ = [
    "Config",
    "ConfigError",
    "MailHandOver",
    "OAuth2Provider",
    "PasswordHashing",
    "PolicyHook",
    "PolicyServer",
    "load",
    "parse",
    "sample",
]
