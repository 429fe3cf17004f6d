"""The page's server: one address, bounded requests, no network beyond it."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from mmdualtoken.errors import InputError
from mmdualtoken.inference.inspector.inspected_model import InspectedModel
from mmdualtoken.inference.inspector.page import CSS, THEME, Page
from mmdualtoken.inference.inspector.photo import MAX_BYTES

LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_BODY = MAX_BYTES + 2**20  # bytes of one request: a photo and its envelope
#: Browsers ask no other host, and show the page in no other's frame.
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


async def bound_requests(request: Request, call_next: Callable) -> Response:
    """Refuse bodies above MAX_BODY, and send POLICY with every answer."""
    length = request.headers.get("content-length", "0")
    # The server reads as many bytes as the length says; chunks say none.
    if "transfer-encoding" in request.headers or not length.isdigit() or int(length) > MAX_BODY:
        text = f"At most {MAX_BYTES // 2**20} MiB are allowed, with a content-length."
        response = PlainTextResponse(text, 413, {"connection": "close"})
    else:
        response = await call_next(request)
    response.headers["content-security-policy"] = POLICY
    return response


@contextmanager
def serve_page(
    models: list[InspectedModel],
    host: str = "127.0.0.1",
    port: int = 0,
    open_browser: bool = False,
) -> Iterator[str]:
    """Serve the page inside the `with`; yields its address.

    Args:
        host: address to listen on; the loopback ones are reached from this machine alone.
        port: TCP port; 0 takes a free one.

    Raises:
        InputError: the address cannot be used.
    """
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=bound_requests)]
    if host in LOOPBACK[:2]:  # another name that leads here (DNS rebinding) is refused
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=LOOPBACK[:2]))
    with (
        tempfile.TemporaryDirectory(prefix="inspector-", ignore_cleanup_errors=True) as folder,
        # No folder that the machine's users share; and Gradio asks its own address for life, which
        # a proxy does not reach.
        mock.patch.dict(os.environ, GRADIO_TEMP_DIR=folder, no_proxy="*"),
    ):
        blocks = Page(models).blocks
        try:
            # Gradio waits for ever for a server that could not use its address.
            family = socket.getaddrinfo(host, port)[0][0]
            with socket.create_server((host, port), family=family) as free:
                port = free.getsockname()[1]
            _, url, _ = blocks.launch(
                server_name=f"[{host}]" if ":" in host else host, server_port=port,
                share=False, inbrowser=open_browser, prevent_thread_lock=True, quiet=True,
                show_error=True, max_file_size=MAX_BYTES, state_session_capacity=8, theme=THEME,
                css=CSS, app_kwargs=dict(middleware=middleware, openapi_url=None), footer_links=[],
                run_history=False, enable_monitoring=False, mcp_server=False, pwa=False,
                ssr_mode=False,
            )  # fmt: skip
        except (OSError, OverflowError) as error:
            raise InputError(
                f"Host {host}, port {port} cannot be used ({error}). Name another port by --port; "
                "0 takes a free one."
            ) from error
        try:
            yield url
        finally:
            blocks.close(verbose=False)
