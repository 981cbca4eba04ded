"""What an environment holds: a place to make sessions at, and one episode. Nobody else ends them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlgym_clients.rl.live import LiveEpisode
from mlgym_clients.rl.servers import Lease
from mlgym_mcp.api import SessionRequest


class Holding:
    """Kept apart from its environment, to be still there when that is gone: ``weakref.finalize(env, held.drop)``.

    Args:
        server: URL of a server; default: ``$MLGYM_SERVER``, else one of this process's own.
        token: its admin token, or the file that holds it; default: ``$MLGYM_ADMIN_TOKEN``.
        serve: arguments of ``mlgym-mcp serve`` for an own server.
        patience_s: how long the server may be away, each time.
    """

    def __init__(
        self,
        server: str | None = None,
        token: str | Path | None = None,
        serve: Sequence[str] = (),
        patience_s: float = 60.0,
    ) -> None:
        self._where = (server, token, tuple(serve))
        self._patience_s = patience_s
        self._lease: Lease | None = None
        self.episode: LiveEpisode | None = None

    def begin(self, wanted: SessionRequest) -> LiveEpisode:
        """End the episode before, and begin one; an own server is started with the first.

        Raises:
            ControlError: the server refuses the session.
            ServerLostError: the server does not answer.
            EpisodeLostError: the sandbox could not be prepared.
            ServerStartError: the own server did not come up.
        """
        self.end_episode()
        if self._lease is None:
            self._lease = Lease(*self._where)
        self.episode = LiveEpisode(self._lease.renewed(), wanted, patience_s=self._patience_s)
        return self.episode

    def end_episode(self) -> None:
        """End the episode, if there is one, and wait until it has ended; not for a server that is gone."""
        episode, self.episode = self.episode, None
        if episode is None:
            return
        if self._lease is not None and self._lease.gone:
            episode.drop()
        else:
            episode.end()

    def close(self) -> None:
        """End all that is held, and wait until it has ended."""
        self.end_episode()
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.close()

    def drop(self) -> None:
        """Have all that is held ended, without waiting; fit for finalizers."""
        if self.episode is not None:
            self.episode.drop()
        if self._lease is not None:
            self._lease.drop()
        self.episode = self._lease = None
