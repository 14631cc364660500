"""The built book with live cells: a Jupyter server on this machine serves the pages and runs their code.

The server listens on 127.0.0.1 only and wants a random token, which the printed address carries.
Pages and kernel have the same origin, so nothing has to be allowed across origins; ``js/live.js``
takes the token from the address.
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paperkit.book.layout import BookError, Layout

FIRST_PAGE = "book/intro.html"


def free_port(wanted: int = 0) -> int:
    """A TCP port of 127.0.0.1 that nobody listens on.

    Parameters
    ----------
    wanted : int, optional
        0 for any.

    Raises
    ------
    BookError
        If `wanted` is taken.
    """
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise BookError(f"port {wanted} is taken; leave --port out for a free one.") from error
        return int(probe.getsockname()[1])


def server(layout: Layout, *, port: int, token: str) -> Any:
    """Make the server, ready to start.

    Parameters
    ----------
    layout : Layout
        The book, built.
    port : int
        Where to listen on 127.0.0.1.
    token : str
        What a request for a kernel must show; the pages themselves are open to this machine.

    Returns
    -------
    jupyter_server.serverapp.ServerApp
        Initialised; ``start()`` serves until it is stopped.

    Raises
    ------
    BookError
        If the book is not built.
    """
    if not (layout.html / FIRST_PAGE).is_file():
        raise BookError(f"{layout.html} holds no book; build it first: python3 noxfile.py -s book")
    from jupyter_server.serverapp import ServerApp

    # What the runner sets: figures then rely on the plotly.js that the page has loaded.
    os.environ["PAPERKIT_BOOK"] = "1"
    os.environ.pop("MPLBACKEND", None)
    # command-line options win over what the user's own Jupyter configuration says
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": layout.root,
        "ServerApp.extra_static_paths": [str(layout.html)],
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "ServerApp.answer_yes": True,
        "ServerApp.log_level": "ERROR",
        "IdentityProvider.token": token,
    }
    app = ServerApp()
    app.initialize([f"--{name}={value}" for name, value in options.items()], find_extensions=False)
    return app


def main(argv: Sequence[str] | None = None, *, root: Path | None = None) -> int:
    """Serve the book until interrupted.

    Parameters
    ----------
    argv : sequence of str, optional
        ``--port``, ``--no-browser``; default: the arguments of the process.
    root : Path, optional
        The repository; default: the one that this package lies in.

    Returns
    -------
    int
        0.
    """
    parser = argparse.ArgumentParser(prog="live", description=__doc__)
    parser.add_argument("--port", type=int, help="default: a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    options = parser.parse_args(argv)
    port = free_port(options.port or 0)
    token = secrets.token_urlsafe(24)
    app = server(Layout.of(root), port=port, token=token)
    # index.html is a redirect that would lose the token
    address = f"http://127.0.0.1:{port}/static/{FIRST_PAGE}?token={token}"

    def announce() -> None:
        print(f"The book with live cells: {address}\nStop it with Ctrl+C.", flush=True)
        if not options.no_browser:
            webbrowser.open(address)

    # called by the loop, which starts when the server listens
    app.io_loop.add_callback(announce)
    app.start()
    return 0


if __name__ == "__main__":
    sys.exit(main())
