"""The page's server: on one address, of bounded requests, and asking nothing of anybody else."""

import asyncio
import contextlib
import logging
import os
import socket
import tempfile
import webbrowser
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

from mmdualtoken.errors import InputError
from mmdualtoken.inference.inspector.subject import Subject
from mmdualtoken.inference.inspector.upload import MAX_BYTES

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = MAX_BYTES + 2**20  # bytes of one request: a photo and what surrounds it
#: The browser, too, refuses to ask another host.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def check_gradio() -> None:
    """Import Gradio, with all that it would send switched off.

    Raises:
        InputError: it is not installed; the message says how to.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"The inspector's page needs Gradio, which cannot be imported ({error}). In a clone: "
            "python -m pip install -r requirements/inspector.txt; elsewhere: "
            'python -m pip install "mmdualtoken[inspector]".'
        ) from error


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        InputError: the address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(
            f"{host}, port {port} cannot be used ({error}). Name another port by --port; 0 takes "
            "a free one."
        ) from error
    return bound


class Bounded:
    """ASGI middleware: requests of at most MAX_BODY bytes, and POLICY with every answer."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: MutableMapping, receive: Callable, send: Callable) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY:
            await _refuse(send)
            return
        received = 0

        async def counted() -> MutableMapping:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            # A body without a length; the rest of it is not read.
            return {"type": "http.disconnect"} if received > MAX_BODY else message

        async def with_policy(message: MutableMapping) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message.get("headers", ()), policy]}
            await send(message)

        await self.app(scope, counted, with_policy)


async def _refuse(send: Callable[[Any], Awaitable[None]]) -> None:
    text = f"At most {MAX_BYTES // 2**20} MiB are allowed.".encode()
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": text})


@contextlib.contextmanager
def _own_folder() -> Iterator[None]:
    """Uploads and pictures lie in a folder of their own that is gone at the end."""
    before = os.environ.get("GRADIO_TEMP_DIR")
    with tempfile.TemporaryDirectory(prefix="inspector-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder))
        try:
            yield
        finally:
            os.environ.pop("GRADIO_TEMP_DIR")
            if before is not None:
                os.environ["GRADIO_TEMP_DIR"] = before


def make_app(subjects: list[Subject], host: str, port: int) -> Any:
    """The page as an ASGI application, for the address that it will be reached at."""
    import gradio as gr
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from mmdualtoken.inference.inspector.layout import CSS, THEME
    from mmdualtoken.inference.inspector.page import Page

    blocks = Page(subjects).blocks
    blocks.state_session_capacity = 8
    app = FastAPI(openapi_url=None)
    app.add_middleware(Bounded)
    if host in LOOPBACK[:2]:  # a name that leads here (DNS rebinding) is not answered
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK[:2])
    return gr.mount_gradio_app(
        app, blocks, "/", host, port, footer_links=[], run_history=False, show_error=True,
        max_file_size=MAX_BYTES, ssr_mode=False, mcp_server=False, pwa=False,
        enable_monitoring=False, theme=THEME, css=CSS,
    )  # fmt: skip


def serve(
    subjects: list[Subject],
    host: str,
    port: int,
    announce: Callable[[str, Callable[[], None]], None],
) -> None:
    """Show the page until Ctrl-C.

    Args:
        subjects: one model, or two to compare.
        host: address to listen on; the loopback ones are reached from this machine alone.
        port: TCP port, 0 for a free one.
        announce: called with the page's address once it can be asked for, and with what ends the
            server.

    Raises:
        InputError: the address cannot be had.
    """
    import uvicorn

    with _own_folder(), contextlib.closing(bind(host, port)) as bound:
        port = bound.getsockname()[1]
        app = make_app(subjects, host, port)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        server = uvicorn.Server(config)
        bound.listen()  # who asks now is answered when the server is up
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        announce(url, lambda: setattr(server, "should_exit", True))
        server.run(sockets=[bound])


def _is_news(record: logging.LogRecord) -> bool:
    """False for what is logged because an open page is cut off at the end."""
    kind = record.exc_info[0] if record.exc_info else None
    cut = kind is not None and issubclass(kind, asyncio.CancelledError)
    return not cut and "graceful shutdown exceeded" not in record.getMessage()


def show(url: str, open_browser: bool = True) -> None:
    """Print the page's address, and open it where there is a screen."""
    print(f"Inspector: {url} (Ctrl-C ends it)", flush=True)
    if open_browser and any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")):
        webbrowser.open(url)
