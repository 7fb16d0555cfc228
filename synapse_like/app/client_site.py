"""What clients and browsers find here, put together."""

from __future__ import annotations

from synapse_like import webclient
from synapse_like.app.addresses import Addresses
from synapse_like.app.content import ContentParts
from synapse_like.app.entrance import Entrance
from synapse_like.app.foundation import Foundation
from synapse_like.app.health import Health
from synapse_like.app.rooms import RoomParts
from synapse_like.app.streams import Streams
from synapse_like.config import Config
from synapse_like.handlers.authentication import Authentication, Requester
from synapse_like.handlers.backfill import Backfill
from synapse_like.handlers.history import History
from synapse_like.handlers.initial_sync import InitialSync
from synapse_like.handlers.unwanted import Unwanted
from synapse_like.handlers.voip import Voip
from synapse_like.http.client.accounts import AccountEndpoints
from synapse_like.http.client.contacts import ContactEndpoints
from synapse_like.http.client.content import ContentEndpoints, mount_content
from synapse_like.http.client.history import HistoryEndpoints
from synapse_like.http.client.membership import MembershipEndpoints
from synapse_like.http.client.messages import MessageEndpoints
from synapse_like.http.client.presence import PresenceEndpoints
from synapse_like.http.client.profile import ProfileEndpoints
from synapse_like.http.client.rooms import RoomEndpoints
from synapse_like.http.client.third_party_ids import ThirdPartyIdEndpoints
from synapse_like.http.client.typing import TypingEndpoints
from synapse_like.http.client.unwanted import UnwantedEndpoints
from synapse_like.http.client.v1 import mount_v1
from synapse_like.http.client.voip import VoipEndpoints
from synapse_like.http.pages.browsers import Browsers
from synapse_like.http.pages.chat import FOLDER, mount_chat_page
from synapse_like.http.pages.login import LoginPages, mount_login_pages
from synapse_like.http.pages.mail_links import MailLinkPages, mount_mail_links
from synapse_like.http.pages.oauth2 import OAuth2Pages, mount_oauth2
from synapse_like.http.routing import Auth, Mount, Route


def client_mounts(
    on: Foundation,
    authentication: Authentication,
    entrance: Entrance,
    rooms: RoomParts,
    streams: Streams,
    addresses: Addresses,
    content: ContentParts,
    backfill: Backfill,
    health: Health,
) -> list[Mount[Requester]]:
    """All that is there for them."""
    config, database, clock, name, people = on.config, on.database, on.clock, on.name, streams.people
    again = rooms.retransmissions
    history = HistoryEndpoints(
        History(database, streams.notifier, backfill, clock),
        InitialSync(database, streams.notifier, people.presence if people else None),
        streams.event_stream,
        clock,
        longest_poll_ms=config.limits.long_poll_max_ms,
    )
    accounts = AccountEndpoints(
        entrance.login, entrance.accounts, entrance.identities, authentication, on.limits.check, name
    )
    membership = MembershipEndpoints(rooms.membership, again)
    voip = Voip(clock, config.voip.turn_uris, config.voip.shared_secret, config.voip.lifetime)
    return [
        mount_v1(
            accounts,
            RoomEndpoints(rooms.rooms, rooms.directory, again, on.limits.check),
            membership,
            MessageEndpoints(rooms.messages, again, on.limits),
            history,
            ProfileEndpoints(rooms.profiles),
            VoipEndpoints(voip),
            TypingEndpoints(streams.typing),
            PresenceEndpoints((people.presence, people.input, people.lists) if people else None, again),
            ThirdPartyIdEndpoints(addresses.linked, addresses.invites, accounts, membership, again),
            UnwantedEndpoints(Unwanted(database)),
            ContactEndpoints(addresses.books, again),
        ),
        mount_content(
            ContentEndpoints(content.repository, content.thumbnails, name, config.client.url(name)),
            max_upload=config.content.max_upload_size,
            upload_seconds=config.content.upload_timeout,
        ),
        *_page_mounts(on, entrance),
        Mount("", [Route("GET", "/health", health.look, auth=Auth.NONE)]),
    ]


def _page_mounts(on: Foundation, entrance: Entrance) -> list[Mount[Requester]]:
    """The pages for people."""
    name, base_url = on.name, on.config.client.url(on.name)
    browsers = Browsers(is_secure=base_url.startswith("https:"))
    providers = entrance.identities.providers
    pages = LoginPages(entrance.login, entrance.identity, providers, name, base_url, browsers, on.limits.check)
    return [
        *chat_mounts(on.config),
        mount_mail_links(MailLinkPages(entrance.login, entrance.accounts, name)),
        *mount_login_pages(pages),
        mount_oauth2(OAuth2Pages(entrance.login, pages, providers, name, browsers)),
    ]


def chat_mounts(config: Config) -> list[Mount[Requester]]:
    """The chat page, unless the settings want none."""
    return [mount_chat_page(webclient.load(FOLDER))] if config.webclient.enabled else []
