"""The controller's page: where it is served, and the links to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from edgenode.addresses import split_address
from edgenode.controller.controller_options import ControllerOptions
from edgenode.controller.enrolment import Enrolment
from edgenode.core.protocol.status import ClusterStatus
from edgenode.dashboard.app import dashboard
from edgenode.dashboard.feed import Feed
from edgenode.dashboard.sign_in import SignIn
from edgenode.errors import ConfigError
from edgenode.net.http import serving_http
from edgenode.net.interfaces import interfaces_for, is_loopback
from edgenode.net.operator_server import RunControl
from edgenode.observability.metrics import TOKEN
from edgenode.observability.run_recorder import RunRecorder
from edgenode.observability.status_view import cluster_json, page_from_elsewhere
from edgenode.security.secret_files import kept_secret
from edgenode.security.subject import Caller

log = structlog.get_logger()

_SECRET = "page-secret"  # of the cookies. In the state folder: who is signed in stays so when the controller restarts


class Page:
    """The page, which is served if the options say so.

    Args:
        enrolment: None if the controller works without certificates.
        status: reads the cluster's state.

    Attributes:
        url: "" while the page is not served.

    Raises:
        SecurityError: the secret of the cookies cannot be read or written.
    """

    def __init__(
        self, options: ControllerOptions, enrolment: Enrolment | None, status: Callable[[], ClusterStatus]
    ) -> None:
        self._options, self._enrolment = options, enrolment
        cluster = options.config.run.cluster
        if enrolment is None:
            self._sign_in = SignIn(cluster)
        else:
            secret, https = kept_secret(options.state_dir / _SECRET), options.page_url.startswith("https:")
            self._sign_in = SignIn(cluster, secret, enrolment.admits, https)
        self.feed = Feed(lambda: cluster_json(status()), self._sign_in.watcher)
        self.url = ""

    def link(self, who: Caller | None) -> str:
        """A link that signs somebody in, once.

        Raises:
            ConfigError: there is no page.
        """
        if not self.url:
            raise ConfigError("the controller serves no page: it runs with --http none; use edgenode watch")
        return f"{self.url}{self._sign_in.link(who)}"

    @asynccontextmanager
    async def serving(self, run: RunControl, history: RunRecorder) -> AsyncIterator[str]:
        """Serve the page during the body. Yields a link for the operator of this machine, or "" without a page.

        Raises:
            ConfigError: the address cannot be bound.
        """
        listen = self._options.http
        if listen == "none":
            yield ""
            return
        token = kept_secret(self._options.state_dir / TOKEN)
        app = dashboard(run, history, self.feed, self._sign_in, token, listen, self._options.page_url)
        async with serving_http(app, listen, "--http") as served:
            self.url = self._options.page_url or served
            if self.url == served and not is_loopback(split_address(listen)[0]):
                log.warning("the page is not encrypted: anyone who listens on the network can take over a session")
            if self.url == served and (how := page_from_elsewhere(served, interfaces_for("")[0])):
                log.info("only this machine can open the page", from_elsewhere=how)
            yield self.link(self._enrolment.operator if self._enrolment else None)
