"""What callers send that is no HTTP request, or too large for one; and how answers are told apart."""

from service.api.http.bounds import MOST_HEADERS, MOST_URL

POST = b"POST /rank HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"POST /smuggled HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"

GARBAGE = {
    "noise": bytes(range(256)) * 8,
    "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/0.9": b"GET /rank\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30),
    "a version to come": b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a star": b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    "no path": b"GET rank HTTP/1.1\r\nHost: x\r\n\r\n",
    "bytes above ASCII in the path": "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": b"GET / HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n",
    "a length twice": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "a list of lengths": POST + b"Content-Length: 1, 1\r\n\r\na",
    "a negative length": POST + b"Content-Length: -1\r\n\r\na",
    "a signed length": POST + b"Content-Length: +5\r\n\r\naaaaa",
    "a length with a blank": POST + b"Content-Length: 5 5\r\n\r\naaaaa",
    "a hexadecimal length": POST + b"Content-Length: 0x5\r\n\r\naaaaa",
    "a length beyond 64 bits": POST + b"Content-Length: 99999999999999999999\r\n\r\na",
    "length and coding": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "xchunked": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "chunked, x": POST + b"Transfer-Encoding: chunked, x\r\n\r\n0\r\n\r\n",
    "gzip, chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a blank before the colon": POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a folded header": POST + b"A: b\r\n c\r\n\r\n",
    "a bare LF": b"GET / HTTP/1.1\nHost: x\n\n",
    "a bare LF in a header": b"GET / HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
    "a bare CR": b"GET / HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
    "a NUL": b"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\nHost: x\r\n: c\r\n\r\n",
    "a chunk too long": CHUNKED + b"1\r\naXX0\r\n\r\n",
    "a chunk with a bare LF": CHUNKED + b"1\na\n0\n\n",
    "a negative chunk": CHUNKED + b"-1\r\na\r\n0\r\n\r\n",
    "a chunk beyond 64 bits": CHUNKED + b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a length in a trailer": CHUNKED + b"1\r\na\r\n0\r\nContent-Length: 3\r\n\r\n",
}

TOO_LARGE = {
    "a huge header": (431, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 100_000),
    "many headers": (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n"),
    "headers above the count": (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"a:\r\n" * MOST_HEADERS + b"\r\n"),
    "a huge path": (414, b"GET /" + b"a" * MOST_URL + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
    "blank lines": (431, b"\r\n" * 50_000),
    "a huge trailer": (400, CHUNKED + b"1\r\na\r\n0\r\nA: " + b"a" * 100_000),
    "a huge chunk extension": (400, CHUNKED + b"1;a=" + b"a" * 100_000),
    "extensions of many chunks": (400, CHUNKED + (b"1;" + b"a" * 100 + b"\r\na\r\n") * 5000),
}


def answers(raw: bytes) -> list[tuple[int, bytes]]:
    """Statuses and bodies of all answers in what a server sent; fails on anything else in it."""
    found = []
    while raw:
        head, _, rest = raw.partition(b"\r\n\r\n")
        status, *fields = head.split(b"\r\n")
        assert status.startswith(b"HTTP/1.1 "), raw
        length = next(int(field.split(b":")[1]) for field in fields if field.startswith(b"content-length:"))
        found.append((int(status.split()[1]), rest[:length]))
        raw = rest[length:]
    return found
